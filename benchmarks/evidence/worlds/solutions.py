"""Solutions of several steps, whose errors are seen dimly, and whose answers are sometimes right by luck."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidence.worlds.base import generators


class Solved(NamedTuple):
    """Attempts."""

    seen: Tensor
    """[S, N, T, d], what a model sees of each step."""
    right: Tensor
    """[S, N, T] bool, whether each step is right."""
    answer: Tensor
    """[S, N] bool, whether the final answer is right."""


class Solutions:
    """Attempts of five steps, each right with the same probability; the answer is right if all are, or by luck.

    Args:
        seeds: number of seeds, from 0.
        luck: how often an attempt with a wrong step still ends in the right answer.
    """

    steps, features, share_right, clarity = 5, 4, 0.67, 2.0

    def __init__(self, seeds: int, luck: float = 0.25) -> None:
        self.generators, self.luck = generators(seeds), luck

    def draw(self, number: int) -> Solved:
        """Independent attempts of each seed."""
        drawn = [self._draw(generator, number) for generator in self.generators]
        return Solved(*(torch.stack(part) for part in zip(*drawn, strict=True)))

    def _draw(self, generator: torch.Generator, number: int) -> Solved:
        uniform = torch.rand(number, self.steps + 1, generator=generator, dtype=torch.float64)
        right = uniform[:, :-1] < self.share_right
        seen = torch.randn(number, self.steps, self.features, generator=generator, dtype=torch.float64)
        # Right and wrong steps lie this far apart in the first feature; the others say nothing.
        seen[..., 0] += self.clarity * (right.double() - 0.5)
        return Solved(seen, right, right.all(1) | (uniform[:, -1] < self.luck))

    def inputs(self, seen: Tensor) -> Tensor:
        """What a causal model reads at each step, [S, N, T, I]: all steps so far, and which one it is."""
        so_far = torch.ones(self.steps, self.steps, dtype=torch.float64).tril()[..., None]
        past = (seen[..., None, :, :] * so_far).flatten(-2)
        return torch.cat([past, torch.eye(self.steps, dtype=torch.float64).expand(*past.shape[:-1], -1)], -1)
