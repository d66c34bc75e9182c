"""Merging of models that were trained from one base: how the changes of one weight tensor become a single change.

Task arithmetic: Ilharco et al. 2022, https://arxiv.org/abs/2212.04089. TIES: Yadav et al. 2023,
https://arxiv.org/abs/2306.01708. DARE: Yu et al. 2023, https://arxiv.org/abs/2311.03099.

A change is the trained tensor minus the base's. Shares of entries are of each tensor by itself, as in mergekit; the
authors of TIES take them of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Task arithmetic: the weighted sum.

    Args:
        deltas: changes of one tensor, all of one shape.
        weights: one for each.

    Returns:
        The shape of a change.
    """
    return torch.stack([weight * delta for delta, weight in zip(deltas, weights, strict=True)]).sum(0)


def ties(deltas: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim each change to its largest entries, elect a sign for each entry, average what has that sign.

    Args:
        deltas: changes of one tensor, all of one shape.
        weights: one for each, 0 or more, in the election and in the average.
        density: share of the entries of each change that is kept, in (0, 1].

    Returns:
        The shape of a change.
    """
    return elect([trim(delta, density) for delta in deltas], weights)


def dare_ties(deltas: Sequence[Tensor], weights: Sequence[float], density: float, generator: torch.Generator) -> Tensor:
    """The same, with entries kept at random, and enlarged so that their sum is expected to stay.

    Args:
        deltas: changes of one tensor, all of one shape.
        weights: one for each, 0 or more.
        density: probability that an entry is kept, in (0, 1].
        generator: of the draws, on the device of the changes.

    Returns:
        The shape of a change.
    """
    return elect([drop(delta, density, generator) for delta in deltas], weights)


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the entries that are largest in magnitude, of equal ones the first; the others become 0.

    Args:
        delta: any shape.
        density: share that is kept, in (0, 1]; their number is rounded.
    """
    count = round(density * delta.numel())
    if count >= delta.numel():
        return delta
    if count == 0:
        return torch.zeros_like(delta)
    size = delta.abs().flatten()
    least = size.kthvalue(delta.numel() - count + 1).values
    above, level = size > least, size == least
    # A sort would do the same in many times the time.
    kept = above | (level & (level.cumsum(0) <= count - above.sum()))
    return delta * kept.view_as(delta)


def drop(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep entries with probability `density`, divided by it; the others become 0."""
    kept = torch.rand(delta.shape, generator=generator, device=delta.device) < density
    return torch.where(kept, delta / density, torch.zeros_like(delta))


def elect(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """For each entry the sign of the weighted sum, and the weighted mean of the changes that have it; 0 without any.

    Args:
        deltas: changes of one tensor, all of one shape.
        weights: one for each, 0 or more.

    Returns:
        The shape of a change.
    """
    sign = linear(deltas, weights).sign()
    total, voters = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = (delta.sign() == sign) & (delta != 0)
        total += weight * delta * agrees
        voters += weight * agrees
    return torch.where(voters > 0, total / voters, torch.zeros_like(total))
