"""The experiments, one module per group of claims."""
