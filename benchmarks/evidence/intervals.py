"""Means with 95 % intervals over seeds, and the verdict on an inequality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lit_align.evaluation.intervals import over_runs

Verdict = Literal["held", "mixed", "not held"]


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
    found = over_runs(values)
    return Interval(found.mean, math.nan if found.low is None else found.half_width)


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
    """One verdict for several inequalities: held if all are, not held if none is; None where there is none yet."""
    if not verdicts:
        return None
    held = verdicts.count("held")
    return "held" if held == len(verdicts) else "mixed" if held else "not held"
