"""Majorities: the most frequent of several answers, and who gave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Vote(NamedTuple):
    """The outcome of a vote among the answers to one prompt."""

    winner: Hashable | None
    """The most frequent answer, of equally frequent ones the first; None where there was no answer."""
    share: float
    """Of all votes, absent ones included."""
    rewards: list[float]
    """1 for each vote that went to the winner, 0 for the others and the absent ones."""


def majority(answers: Sequence[Hashable | None]) -> Vote:
    """Count the votes for each answer.

    Args:
        answers: in a form in which equal answers are equal; None for an absent one.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return Vote(None, 0.0, [0.0] * len(answers))
    # Among equal counts, the one that was counted first.
    winner, number = counts.most_common(1)[0]
    return Vote(winner, number / len(answers), [float(answer == winner) for answer in answers])
