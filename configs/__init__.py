"""Configurations: one YAML file per method, complete by itself, and overlays."""
