"""Answers whose raters like length beside quality."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidence.worlds.base import generators


class Wordy(NamedTuple):
    """Pairs of answers, the preferred one first."""

    features: Tensor
    """[S, 2, N, d]."""
    quality: Tensor
    """[S, 2, N]."""
    length: Tensor
    """[S, 2, N], tokens."""


class Raters:
    """Answers whose quality and length are independent, and raters who like both.

    Args:
        seeds: number of seeds, from 0.
    """

    dimensions, liked, spread, typical = 16, (1.5, 1.2), 0.5, 150

    def __init__(self, seeds: int) -> None:
        self.generators = generators(seeds)
        shape = (self.dimensions, self.dimensions)
        mixes = [torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators]
        self.mix = torch.linalg.qr(torch.stack(mixes)).Q

    def pairs(self, number: int) -> Wordy:
        """Random pairs."""
        rows = [self._draw(generator, mix, number) for generator, mix in zip(self.generators, self.mix, strict=True)]
        return Wordy(*(torch.stack(part) for part in zip(*rows, strict=True)))

    def _draw(self, generator: torch.Generator, mix: Tensor, number: int) -> Wordy:
        hidden = torch.randn(2, number, self.dimensions, generator=generator, dtype=torch.float64)
        liking = self.liked[0] * hidden[..., 0] + self.liked[1] * hidden[..., 1]
        draws = torch.rand(number, generator=generator, dtype=torch.float64)
        wins = draws < (liking[0] - liking[1]).sigmoid()
        hidden = torch.where(wins[:, None], hidden, hidden.flip(0))
        length = (self.typical * (self.spread * hidden[..., 1]).exp()).round().clamp(min=1)
        return Wordy(hidden @ mix, hidden[..., 0], length)
