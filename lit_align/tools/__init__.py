"""Verbs without a Trainer. Each is a module `lit_align.tools.<verb>` with a function `main(argv)`."""
