"""Pairs in which the longer response is chosen as often as the shorter one, whatever the difference in length.

Where people choose longer responses, a model may learn length in place of quality. Pairs are put into bins by the
difference in length; in each bin the more frequent side is weighed down, or thinned out, to the size of the other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from lit_align.core.errors import DataError
from lit_align.data.store import ExampleStore, Kept

BalanceLengths = Literal["weight", "downsample"]
BINS = 5
"""Bins of equally many pairs; fewer where many differences are equal."""

LONE = "pair in whose bin of length differences all chosen responses are longer, or all are shorter"
THINNED = "pair left out so that longer and shorter responses are chosen equally often"


class Balance(NamedTuple):
    """What is made of pairs."""

    weights: list[float]
    """For each pair, 0 for one that is left out; before they are normalised."""
    lone: list[int]
    """The pairs of bins without a counterpart."""


def quantile_edges(differences: Sequence[int], bins: int = BINS) -> list[float]:
    """Inner bounds of bins of absolute differences other than 0, each from its lower bound up to below the next."""
    sizes = [abs(difference) for difference in differences if difference]
    if not sizes:
        return []
    bounds = np.quantile(sizes, np.arange(1, bins) / bins)
    return sorted({float(bound) for bound in bounds if bound > min(sizes)})


def balance(differences: Sequence[int], edges: Sequence[float]) -> Balance:
    """Weighs pairs so that in each bin, and so in all, longer and shorter responses are chosen equally often.

    Args:
        differences: for each pair, tokens of the chosen response less those of the rejected one. Pairs of equal
            lengths keep the weight 1.
        edges: inner bounds of the bins of absolute differences, rising.

    Returns:
        Weights of at most 1: the size of a bin's smaller side by that of the pair's own.
    """
    weights = [1.0] * len(differences)
    lone: list[int] = []
    for members in _bins(differences, edges):
        longer = sum(differences[pair] > 0 for pair in members)
        fewer = min(longer, len(members) - longer)
        for pair in members:
            weights[pair] = fewer / (longer if differences[pair] > 0 else len(members) - longer)
        lone += members if fewer == 0 else []
    return Balance(weights, sorted(lone))


def thin_out(differences: Sequence[int], edges: Sequence[float], seed: int) -> Balance:
    """Draws pairs without replacement instead of weighing them: the weights are 0 or 1; see `balance`."""
    generator = random.Random(seed)
    weights = [1.0] * len(differences)
    lone: list[int] = []
    for members in _bins(differences, edges):
        sides = [[pair for pair in members if (differences[pair] > 0) is longer] for longer in (True, False)]
        fewer = min(map(len, sides))
        for side in sides:
            for pair in generator.sample(side, len(side) - fewer):
                weights[pair] = 0.0
        lone += members if fewer == 0 else []
    return Balance(weights, sorted(lone))


def _bins(differences: Sequence[int], edges: Sequence[float]) -> list[list[int]]:
    """The pairs of each bin; those of equal lengths are in none."""
    bounds = [0.0, *edges, float("inf")]
    return [
        [pair for pair, difference in enumerate(differences) if difference and low <= abs(difference) < high]
        for low, high in pairwise(bounds)
    ]


class Balanced(NamedTuple):
    """A set of balanced pairs."""

    examples: ExampleStore
    left_out: list[tuple[int, str]]
    """Row of the data and reason, for each pair that is left out."""
    note: str
    """What was done, for the data report."""


def balance_examples(examples: ExampleStore, how: BalanceLengths, seed: int) -> Balanced:
    """The pairs of a set with weights, or some of them.

    Args:
        examples: of pairs.
        how: "weight" also multiplies weights that the data have; the mean over the pairs that are kept is then 1.
        seed: decides which pairs are left out by "downsample".

    Raises:
        DataError: no pair would be left.
    """
    lengths = examples.completion_lengths
    every = [(place, pair) for place, pairs in enumerate(examples.pairs) for pair in pairs]
    differences = [lengths[place][chosen] - lengths[place][rejected] for place, (chosen, rejected) in every]
    edges = quantile_edges(differences)
    result = balance(differences, edges) if how == "weight" else thin_out(differences, edges, seed)
    if not any(result.weights):
        raise DataError(
            "Balancing lengths leaves no pair.",
            value=f"{len(every)} pairs, the chosen response is longer in {sum(d > 0 for d in differences)}",
            fix="Leave data.balance_lengths out, or give pairs in which both longer and shorter responses are chosen.",
        )
    kept = _kept(examples, every, result.weights, weighed=how == "weight")
    lone = set(result.lone)
    rows = examples.rows
    left_out = [
        (rows[place], LONE if number in lone else THINNED)
        for number, (place, _) in enumerate(every)
        if not result.weights[number]
    ]
    places = [place for place, choice in enumerate(kept) if choice.pairs]
    note = (
        f"lengths balanced ({how}): of {len(every)} pairs {len(every) - len(left_out)} kept, {len(lone)} without a "
        f"counterpart; of unequal lengths, the chosen response is longer in "
        f"{_share(differences, [1.0] * len(every))} before, {_share(differences, result.weights)} after"
    )
    return Balanced(examples.choose(places, [kept[place] for place in places]), left_out, note)


def _kept(
    examples: ExampleStore, every: Sequence[tuple[int, tuple[int, int]]], weights: Sequence[float], *, weighed: bool
) -> list[Kept]:
    """For each example, the pairs that stay and, where pairs are weighed, how much they count: 1 on average."""
    kept = [Kept([], [] if weighed else None) for _ in range(len(examples))]
    given = examples.weights
    seen = [0] * len(examples)
    for (place, _), weight in zip(every, weights, strict=True):
        pair = seen[place]
        seen[place] += 1
        if weight:
            own = given[place]
            kept[place].pairs.append(pair)
            of_pairs = kept[place].weights
            if of_pairs is not None:
                of_pairs.append(weight * (1.0 if own is None else own[pair]))
    return _normalised(kept) if weighed else kept


def _normalised(kept: Sequence[Kept]) -> list[Kept]:
    every = [weight for choice in kept for weight in choice.weights or []]
    mean = sum(every) / len(every)
    if not mean:
        fix = "Give some pairs a weight above 0, or leave the column out with data.columns={weight: null}."
        raise DataError("All pairs that balancing lengths keeps have the weight 0.", field="weight", value=0, fix=fix)
    return [choice._replace(weights=[weight / mean for weight in choice.weights or []]) for choice in kept]


def _share(differences: Sequence[int], weights: Sequence[float]) -> str:
    """How often the chosen response is longer, of pairs of unequal lengths."""
    longer = sum(weight for difference, weight in zip(differences, weights, strict=True) if difference > 0)
    unequal = sum(weight for difference, weight in zip(differences, weights, strict=True) if difference)
    return f"{100 * longer / unequal:.0f} %" if unequal else "none"
