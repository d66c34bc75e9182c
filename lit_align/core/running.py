"""Means of all that a run has seen so far, which outlive it in its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lit_align.core.metrics import all_reduce_sum


class RunningMean(nn.Module):
    """Mean of values over all batches and ranks; set it as an attribute of a method, and it is saved and restored.

    Args:
        momentum: None: every value counts the same. A number in [0, 1): the mean of a batch enters with weight
            1 - momentum, the mean of the batches before keeps `momentum`.
        start: the mean before any value; without momentum the first value replaces it.
    """

    mean: Tensor
    """Scalar float64."""
    count: Tensor
    """Scalar float64, how many values it is made of."""

    def __init__(self, momentum: float | None = None, start: float = 0.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> Tensor:
        """Take in values, of all ranks together; all ranks call this, if only with no values.

        Args:
            values: any shape, detached here.

        Returns:
            The new mean, a scalar float64 without gradient; a copy.
        """
        own = torch.stack([values.detach().double().sum(), self.count.new_tensor(values.numel())])
        total, number = all_reduce_sum(own)
        count = self.count + number
        weight = number / count.clamp(min=1) if self.momentum is None else (number > 0).double() * (1 - self.momentum)
        self.mean = self.mean + weight * (total / number.clamp(min=1) - self.mean)
        self.count = count
        return self.mean.clone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningMean:
        """Follow the module to its device, but not into 16 bits."""
        kept = {name: buffer.clone() for name, buffer in self.named_buffers()}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(cast(Tensor, getattr(self, name)).device))
        return self
