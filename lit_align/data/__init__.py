"""From files to batches: one data module for every method."""
