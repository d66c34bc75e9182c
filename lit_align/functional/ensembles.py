"""Rewards of several models as one: their mean, the worst, or the mean less what the models disagree by."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Combination = Literal["mean", "worst", "uncertainty", "lcb"]


class Moments(NamedTuple):
    """Mean and spread of scores, by which they are standardised."""

    mean: float
    std: float
    """Population standard deviation, above 0."""


def moments(scores: Tensor) -> Moments:
    """The mean and the population standard deviation of scores.

    Args:
        scores: [M].
    """
    scores = scores.double()
    return Moments(scores.mean().item(), scores.std(correction=0).item())


def standardised(scores: Tensor, of: Moments) -> Tensor:
    """Scores [M] in units of the spread around the mean that other scores have."""
    return (scores - of.mean) / of.std


def combined(scores: Tensor, how: Combination = "mean", weight: float = 0.5, ddof: int = 0) -> Tensor:
    """One score for each response out of those of K models.

    Args:
        scores: [K, M], of models of one scale.
        how: the mean; the worst; `uncertainty`, mean - weight * variance; or `lcb`, mean - weight * standard
            deviation.
        weight: of the disagreement.
        ddof: 0 for the population's variance, 1 for the sample's, which needs two models.

    Returns:
        [M], with gradient where `scores` have one.
    """
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    if how == "mean":
        return mean
    variance = scores.var(0, correction=ddof)
    return mean - weight * (variance if how == "uncertainty" else torch.sqrt(variance))
