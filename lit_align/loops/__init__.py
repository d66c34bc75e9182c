"""Rounds in which the model makes the data that it learns from next."""
