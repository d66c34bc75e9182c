"""Plumbing that every method shares and that knows no method."""
