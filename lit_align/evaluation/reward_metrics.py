"""How good a reward model is on pairs: accuracy in all and in groups, rewards, margins, and what length explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_align.evaluation.intervals import Floats, Interval, Mask, over_clusters
from lit_align.evaluation.score_files import Pair

QUANTILES = 5
_MOST_VALUES = 8
"""Different values of a number that are each a group; more are put together by quantiles."""


class Accuracy(NamedTuple):
    """How often the chosen response scores higher."""

    strict: Interval
    """A tie is wrong."""
    half: Interval
    """A tie is half right: what chance makes of equal scores."""
    ties: int
    pairs: int


class Rewards(NamedTuple):
    """The scores of chosen and rejected responses together, 2N of them."""

    mean: float
    std: float
    """Of a sample (n - 1)."""
    margin: Interval
    """Chosen less rejected, mean."""


class Baseline(NamedTuple):
    """What a rule that sees nothing but lengths gets right, ties half."""

    longer: float
    """Prefer the longer response."""
    shorter: float
    """Prefer the shorter one."""
    gain: Interval
    """Accuracy of the model less that of the better rule, on the same pairs."""

    @property
    def best(self) -> float:
        """The better rule's accuracy: the one to beat."""
        return max(self.longer, self.shorter)

    @property
    def rule(self) -> str:
        """The better rule's name."""
        return "prefer the longer" if self.longer >= self.shorter else "prefer the shorter"


class Columns(NamedTuple):
    """Pairs as arrays [N]."""

    chosen: Floats
    rejected: Floats
    chosen_length: Floats
    rejected_length: Floats
    unit: str
    """Of lengths: tokens, or characters where some are not known in tokens."""
    clusters: list[str]
    """Ids: pairs of one row are drawn together by the bootstrap."""


def columns_of(pairs: Sequence[Pair]) -> Columns:
    """Scores and lengths of pairs, at least one."""
    in_tokens = all(record.len_tokens is not None for pair in pairs for record in pair)

    def of(side: int, read: Callable[[Any], Any]) -> Floats:
        return np.array([read(pair[side]) for pair in pairs], dtype=np.float64)

    def length(record: Any) -> Any:
        return record.len_tokens if in_tokens else record.len_chars

    return Columns(
        of(0, lambda record: record.score),
        of(1, lambda record: record.score),
        of(0, length),
        of(1, length),
        "tokens" if in_tokens else "characters",
        [pair.chosen.id for pair in pairs],
    )


def accuracy(columns: Columns, inside: Any = slice(None)) -> Accuracy:
    """Accuracy on all pairs, or on some of them.

    Args:
        columns: of the pairs.
        inside: mask [N] or places of those that count; at least one.
    """
    difference = (columns.chosen - columns.rejected)[inside]
    clusters = np.array(columns.clusters, dtype=object)[inside].tolist()
    strict, half = over_clusters([_right(difference, 0.0).tolist(), _right(difference, 0.5).tolist()], clusters)
    return Accuracy(strict, half, int((difference == 0).sum()), len(difference))


def _right(difference: Floats, tie: float) -> Floats:
    return np.where(difference == 0, tie, (difference > 0).astype(np.float64))


def rewards(columns: Columns) -> Rewards:
    """Mean and spread of all scores, and the mean margin."""
    both = np.concatenate([columns.chosen, columns.rejected])
    (margin,) = over_clusters([(columns.chosen - columns.rejected).tolist()], columns.clusters)
    return Rewards(float(both.mean()), float(both.std(ddof=1)), margin)


def length_baseline(columns: Columns) -> Baseline:
    """Compare the model with the better of the two rules that see only lengths.

    The better rule is chosen on the same pairs, which favours it; ties count half on both sides, so that they help
    neither. The interval is that of the paired difference.
    """
    lengths = columns.chosen_length - columns.rejected_length
    longer = _right(lengths, 0.5)
    best = longer if longer.mean() >= 0.5 else 1 - longer
    model = _right(columns.chosen - columns.rejected, 0.5)
    (gain,) = over_clusters([(model - best).tolist()], columns.clusters)
    return Baseline(float(longer.mean()), float(1 - longer.mean()), gain)


# -------------------------------------------------------------------- groups of pairs


def by_length_sign(columns: Columns) -> dict[str, Mask]:
    """Masks of the pairs whose chosen response is longer, as long, and shorter."""
    lengths = columns.chosen_length - columns.rejected_length
    masks = {"chosen longer": lengths > 0, "equal length": lengths == 0, "chosen shorter": lengths < 0}
    return {name: mask for name, mask in masks.items() if mask.any()}


def by_quantile(values: Floats, quantiles: int = QUANTILES) -> dict[str, Mask]:
    """Masks of groups of about equal size, by value; equal values stay together, so there may be fewer groups."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, quantiles + 1)))
    if len(edges) == 1:
        return {f"{edges[0]:g}": np.ones(len(values), dtype=bool)}
    number = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    last = len(edges) - 2
    return {
        f"{edges[index]:g} to {'' if index == last else 'below '}{edges[index + 1]:g}": number == index
        for index in range(last + 1)
        if (number == index).any()
    }


def by_column(pairs: Sequence[Pair], name: str) -> dict[str, Mask]:
    """Masks by what a column of the data says of a pair, under `meta`; numbers of many values by quantiles.

    Pairs of which it says nothing form a group of their own; where it says nothing of any pair there is no group.
    """
    values = [pair.chosen.meta.get(name, pair.rejected.meta.get(name)) for pair in pairs]
    known = [value for value in values if value is not None]
    masks: dict[str, Mask] = {}
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    if numeric and len(set(known)) > _MOST_VALUES:
        there = np.array([value is not None for value in values])
        for title, inside in by_quantile(np.array(known, dtype=np.float64)).items():
            masks[title] = np.zeros(len(values), dtype=bool)
            masks[title][np.flatnonzero(there)[inside]] = True
    else:
        for value in sorted(set(map(_title, known))) if not numeric else sorted(set(known)):
            title = _title(value)
            masks[title] = np.array([value is not None and _title(value) == title for value in values])
    if known and len(known) < len(values):
        masks["not stated"] = np.array([value is None for value in values])
    return masks


def _title(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------- correlations


def pearson(one: Floats, other: Floats) -> float | None:
    """Pearson's correlation; None where one of the two does not vary."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def spearman(one: Floats, other: Floats) -> float | None:
    """Spearman's correlation: Pearson's of ranks, equal values having their mean rank."""
    return pearson(_ranks(one), _ranks(other))


def _ranks(values: Floats) -> Floats:
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Floats = (last - (count - 1) / 2)[number]
    return ranks
