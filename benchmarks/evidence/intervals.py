"""Means with 95 % intervals over seeds, and the verdict on an inequality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["held", "mixed", "not held"]

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's is close enough.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


class Interval(NamedTuple):
    """A mean and what it may be off by."""

    mean: float
    half_width: float
    """Half of the 95 % t interval; NaN for a single value, which has none."""


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values and half of its 95 % interval (Student's t).

    Args:
        values: one per seed, at least one.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96
    return Interval(mean, quantile * math.sqrt(variance / n))


def judge(differences: Sequence[float]) -> Verdict:
    """Whether an inequality `difference > 0`, paired over seeds, was found.

    Args:
        differences: one per seed, how far the inequality is over-fulfilled; negative where it is violated.

    Returns:
        held: true in every seed, or the interval of the mean lies above 0;
        not held: the mean is not above 0 (or not a number);
        mixed: the mean is above 0 but neither of the former.
    """
    mean, half_width = interval(differences)
    if all(difference > 0 for difference in differences) or mean - half_width > 0:
        return "held"
    return "mixed" if mean > 0 else "not held"


def overall(verdicts: Sequence[Verdict]) -> Verdict | None:
    """One verdict for several inequalities; None where there is none yet."""
    if not verdicts:
        return None
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "mixed"
