"""Win rates between models over the same prompts: ties count half, intervals come from a bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lit_align.core.errors import DataError
from lit_align.evaluation.intervals import Interval, over_examples


class WinRate(NamedTuple):
    """How often one of two models wins."""

    rate: Interval
    """Wins and half of the ties, or the mean probability to win, as a share of the prompts that were judged."""
    wins: int
    ties: int
    losses: int
    not_judged: int
    """Prompts without a verdict; they count nowhere else."""

    @property
    def judged(self) -> int:
        """Prompts with a verdict."""
        return self.wins + self.ties + self.losses


def preferences(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float | None]:
    """Who wins each prompt by score: 1 ours, 0 theirs, 0.5 neither; None where one of the two has no score."""
    return [
        None if one is None or other is None else 0.5 if one == other else float(one > other)
        for one, other in zip(ours, theirs, strict=True)
    ]


def win_rate(won: Sequence[float | None], seed: int = 0) -> WinRate:
    """The win rate of a model.

    Args:
        won: per prompt the probability that it wins, 0 to 1, or 1, 0.5 and 0 for win, tie and loss; None where nobody
            could judge. Above 0.5 counts as a win, below as a loss.
        seed: of the bootstrap.

    Raises:
        DataError: no prompt has a verdict, or one is not between 0 and 1.
    """
    judged = np.array([value for value in won if value is not None], dtype=np.float64)
    if not len(judged):
        raise DataError(
            "no prompt has a verdict", value=f"{len(won)} prompts", fix="see why the judge could not judge them"
        )
    if not ((judged >= 0) & (judged <= 1)).all():
        bad = judged[~((judged >= 0) & (judged <= 1))][0]
        raise DataError("a verdict is no probability", value=float(bad), fix="give values from 0 to 1")
    (rate,) = over_examples([judged.tolist()], seed)
    return WinRate(
        rate,
        wins=int((judged > 0.5).sum()),
        ties=int((judged == 0.5).sum()),
        losses=int((judged < 0.5).sum()),
        not_judged=len(won) - len(judged),
    )
