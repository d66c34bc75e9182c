"""Exponential averages of a batch's mean and spread, which outlive a run in its checkpoints."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_align.core.metrics import over_ranks
from lit_align.core.running import RunningMean

_LEAST = 1e-8
"""A standard deviation below this is rounding, as before the second value."""


class Moments(NamedTuple):
    """Mean and standard deviation, scalars float64 without gradient."""

    mean: Tensor
    std: Tensor

    def standardised(self, values: Tensor) -> Tensor:
        """Distance from the mean in standard deviations, [B], without gradient; 0 where nothing spreads."""
        centred = values.detach().double() - self.mean
        return torch.where(self.std > _LEAST, centred / self.std.clamp(min=_LEAST), 0.0)


class ExponentialMoments(nn.Module):
    """Exponential averages of the means and standard deviations of batches over all ranks.

    In training mode a batch is taken in before the averages are read; in evaluation mode they stay as they are. They
    start at 0 and are not corrected for it. Set it as an attribute of a method, and it is saved and restored.

    Args:
        decay: weight of the batches before, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.mean = RunningMean(momentum=decay)
        self.std = RunningMean(momentum=decay)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Moments:
        """Take in a batch if in training mode; all ranks call this together.

        Args:
            values: [B], detached here.

        Returns:
            The averages; before the first training batch those of the batch itself.
        """
        everyone = over_ranks(values.double())[0]
        # The standard deviation of one value is unknown: it leaves the average as it is.
        spread = everyone.std().reshape(1) if len(everyone) > 1 else everyone[:0]
        if self.training:
            return Moments(self.mean.update(values), self.std.update(spread))
        if self.mean.count == 0:
            return Moments(everyone.mean(), spread.sum())
        return Moments(self.mean.mean, self.std.mean)
