"""Calibration of a reward model: whether sigmoid(chosen - rejected) is how often it is right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from lit_align.evaluation.intervals import Floats, Mask

BINS = 10
"""Of equal width, on confidences from 0.5 to 1."""
_SLOPES = (1e-6, 1e6)


class Bin(NamedTuple):
    """Pairs of like confidence."""

    confidence: float
    """Their mean."""
    accuracy: float
    """The share of them that is right."""
    pairs: int


class Calibration(NamedTuple):
    """How far confidences are from accuracies, and two proper scores."""

    ece: float
    """Expected calibration error: mean distance of confidence and accuracy of the bins, by pairs."""
    brier: float
    """Mean of (1 - p)^2, where p is the probability of the stated preference."""
    nll: float
    """Mean of -ln p, nats: the Bradley-Terry loss."""
    bins: list[Bin]
    """Those that hold pairs, by confidence."""


def calibration(chosen: Floats, rejected: Floats, temperature: float = 1.0) -> Calibration:
    """Compare confidences with accuracies.

    A tie is wrong, as in the strict accuracy, and has the confidence 0.5.

    Args:
        chosen: scores [N].
        rejected: scores [N].
        temperature: what differences of scores are divided by.
    """
    difference = (chosen - rejected) / temperature
    probability = np.exp(-np.logaddexp(0, -difference))
    confidence = np.maximum(probability, 1 - probability)
    right = difference > 0
    number = np.minimum((confidence - 0.5) * 2 * BINS, BINS - 1).astype(int)
    bins = [
        Bin(float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (number == index for index in range(BINS))
        if inside.any()
    ]
    return Calibration(
        ece=sum(part.pairs * abs(part.confidence - part.accuracy) for part in bins) / len(difference),
        brier=float(((1 - probability) ** 2).mean()),
        nll=float(np.logaddexp(0, -difference).mean()),
        bins=bins,
    )


def fitted_temperature(chosen: Floats, rejected: Floats) -> float | None:
    """The temperature with the least negative log-likelihood.

    Returns:
        A positive number; None where there is no best one: no pair is wrong, so the lower the better, or the model is
        no better than chance, so the higher the better.
    """
    difference = chosen - rejected

    def slope(inverse: float) -> float:
        """Derivative of the mean log-likelihood by the inverse temperature; it falls."""
        return float((difference * np.exp(-np.logaddexp(0, inverse * difference))).mean())

    scale = float(np.abs(difference).max(initial=0.0))
    if scale == 0 or slope(0.0) <= 0 or (difference >= 0).all():
        return None
    low, high = (bound / scale for bound in _SLOPES)
    for _ in range(200):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 1 / float(np.sqrt(low * high))


def halves(clusters: Sequence[Hashable], seed: int = 0) -> tuple[Mask, Mask]:
    """Two halves of pairs at random, as masks [N]: one to fit a temperature on, one to measure it on.

    Args:
        clusters: which row a pair comes from; rows are not split.
        seed: of the halving.
    """
    rows = list(dict.fromkeys(clusters))
    chosen = {rows[place] for place in np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2]}
    first = np.array([cluster in chosen for cluster in clusters], dtype=bool)
    return first, ~first
