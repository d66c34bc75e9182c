"""Commands that need no Trainer."""
