"""95 % intervals of means: over independent runs, and over the examples that were measured."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SHARE = 0.95
_RESAMPLES = 2000
_AT_ONCE = 1 << 22
"""Weights that are drawn together."""


class Interval(NamedTuple):
    """A mean, and between what it may lie; both ends None where nothing is known of that."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float:
        """Half of its length; 0 where nothing is known of it."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a value in common; an interval of which nothing is known has."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def over_runs(values: Sequence[float]) -> Interval:
    """The mean of independent runs, with Student's t interval; of one run nothing is known."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: int, share: float = _SHARE) -> float:
    """Within plus and minus this value lies a share of Student's t distribution.

    Args:
        freedom: degrees of freedom, at least 1.
        share: above 0 and below 1.
    """
    low, high = 0.0, math.pi / 2
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_share(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) * tan(angle)): a finite sum, Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 if odd else 1, freedom - 2, 2):
        term *= k / (k + 1) * math.cos(angle) ** 2
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def over_examples(columns: Sequence[Sequence[float]], seed: int = 0) -> list[Interval]:
    """Means of columns that were measured on the same examples, with bootstrap percentile intervals.

    Args:
        columns: each with one value per example.
        seed: of the resampling.
    """
    values = np.asarray(columns, dtype=np.float64).T
    n = len(values)
    means = np.concatenate([weights @ values / n for weights in bootstrap_weights(n, seed=seed)])
    return percentiles(values.mean(0), means)


def over_clusters(columns: Sequence[Sequence[float]], clusters: Sequence[Hashable], seed: int = 0) -> list[Interval]:
    """Means over all values of columns, with intervals from a bootstrap that draws whole clusters.

    Pairs made from one row stand or fall together: drawn one by one they would make intervals too narrow.

    Args:
        columns: each with one value per example.
        clusters: which cluster an example belongs to.
        seed: of the resampling.
    """
    numbers: dict[Hashable, int] = {}
    places = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    values = np.asarray(columns, dtype=np.float64).T
    if len(numbers) == len(values):
        return over_examples(columns, seed)
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, places, values)
    sizes = np.bincount(places).astype(np.float64)
    means = [weights @ sums / (weights @ sizes)[:, None] for weights in bootstrap_weights(len(sizes), seed=seed)]
    return percentiles(values.mean(0), np.concatenate(means))


def bootstrap_weights(n: int, resamples: int = _RESAMPLES, seed: int = 0) -> Iterator[Ints]:
    """How often each of n examples is drawn in each resample, [R, n] in a few parts of R resamples together.

    Args:
        n: examples.
        resamples: how many in all.
        seed: of the drawing.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // n)
    for start in range(0, resamples, chunk):
        yield generator.multinomial(n, np.full(n, 1 / n), size=min(chunk, resamples - start))


def percentiles(estimates: Floats, resampled: Floats) -> list[Interval]:
    """Estimates [C], with the range of the middle 95 % of the same from resamples [R, C]."""
    low, high = np.quantile(resampled, [(1 - _SHARE) / 2, (1 + _SHARE) / 2], axis=0)
    return [Interval(*map(float, triple)) for triple in zip(estimates, low, high, strict=True)]
