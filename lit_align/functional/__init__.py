"""Pure functions of tensors: log-probabilities, losses' building blocks, masks. They import torch only."""
