"""How often an answer beats the others to the same prompt: what SPPO's loss takes as the probability to win.

Y. Wu et al., "Self-Play Preference Optimization for Language Model Alignment", 2024, https://arxiv.org/abs/2405.00675.
Each answer is compared with all answers to the prompt, itself included, which it beats half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from statistics import fmean

import torch

from lit_align.core.errors import DataError
from lit_align.judges.base import TIE, Verdict

Verdicts = Sequence[Sequence[float | None]]
"""Row i, column j: probability that answer i is better than answer j, asked with i first; None: not known."""


def win_rates(scores: Sequence[float]) -> list[float]:
    """Probability of each answer to win, where sigma(s_i - s_j) is the probability that i beats j.

    Args:
        scores: of the answers to one prompt, in nats (a reward of a Bradley-Terry model).

    Returns:
        For each answer the mean over all answers, itself included.

    Raises:
        DataError: a score is no finite number.
    """
    values = torch.tensor(scores, dtype=torch.float64)
    if not values.isfinite().all():
        raise DataError("a score is no finite number", value=list(scores), fix="leave such answers out first")
    return (values[:, None] - values[None, :]).sigmoid().mean(1).tolist() if len(scores) else []


def orders(number: int) -> list[tuple[int, int]]:
    """Every pair of places in both orders: what a judge is to be asked of as many answers to one prompt."""
    return list(permutations(range(number), 2))


def verdict_table(number: int, verdicts: Sequence[Verdict]) -> list[list[float | None]]:
    """What a judge said of answers to one prompt, as `Verdicts`.

    Args:
        number: of answers.
        verdicts: in the order of `orders`.
    """
    table: list[list[float | None]] = [[None] * number for _ in range(number)]
    for (first, second), verdict in zip(orders(number), verdicts, strict=True):
        table[first][second] = verdict.probability
    return table


def win_rates_of_verdicts(verdicts: Verdicts) -> list[float | None]:
    """Probability of each answer to win, from comparisons of two in both orders, or in one where one is all there is.

    Args:
        verdicts: square; the diagonal does not matter.

    Returns:
        For each answer the mean over itself and those with which the judge could compare it; None where that is none.

    Raises:
        DataError: the table is not square, or holds what is no probability.
    """
    _check(verdicts)
    return [_rate(verdicts, place) for place in range(len(verdicts))]


def _rate(verdicts: Verdicts, place: int) -> float | None:
    known = [
        value
        for other in range(len(verdicts))
        if other != place and (value := _against(verdicts[place][other], verdicts[other][place])) is not None
    ]
    return fmean([TIE, *known]) if known else None


def _against(first: float | None, second: float | None) -> float | None:
    """Probability that an answer wins, from what was said with it in the first place and in the second."""
    said = [value for value in (first, None if second is None else 1 - second) if value is not None]
    return fmean(said) if said else None


def _check(verdicts: Verdicts) -> None:
    for place, row in enumerate(verdicts):
        if len(row) != len(verdicts):
            raise DataError(
                "a table of verdicts is not square",
                value=f"{len(verdicts)} rows, {len(row)} columns in row {place + 1}",
                fix="give a row and a column for every answer",
            )
        for value in row:
            if value is not None and not 0 <= value <= 1:
                raise DataError("a verdict is no probability", value=value, fix="give values from 0 to 1")
