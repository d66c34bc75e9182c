"""The length of answers in pairs: what it is, the price at which it does not matter, and pairs left out to balance it.

Chosen answers that are longer than rejected ones teach length, round after round. DICE (C. Chen et al., 2024,
https://arxiv.org/abs/2406.09760) takes a price per token off the scores before it picks the best and the worst answer,
and searches the price at which the two are equally long on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from lit_align.core.errors import DataError
from lit_align.core.ranges import positive
from lit_align.functional.length import LengthSearch, search_length_price
from lit_align.loops.pairs import Answer, Chosen, scored

_STEPS = 10
_DIGITS = 10
"""Digits of a price that are searched, from the largest that can matter."""


class LengthAudit(NamedTuple):
    """How long chosen answers are beside rejected ones."""

    pairs: int
    difference: float | None
    """Mean of chosen less rejected, tokens; None without pairs."""
    error: float | None
    """Standard error of the difference, tokens; None of fewer than two pairs."""
    longer_wins: float | None
    """Share of pairs of unequal lengths in which the longer answer is chosen; None where all are equal."""


def find_length_price(groups: Sequence[Sequence[Answer]]) -> LengthSearch:
    """The price of a token at which the best and the worst answers to prompts are about equally long.

    The higher the price, the shorter the best answers and the longer the worst: the difference only falls. So the
    search narrows down, digit by digit, the place where its sign changes. The price is below 0 where shorter answers
    have the higher scores. Of the prices that it tries and that are equally good it takes the one nearest to 0.

    Args:
        groups: the answers to each prompt from which pairs will be made (so after an `AnswerFilter`), however many.

    Returns:
        The price, score per token, and the difference in length that is left, tokens.

    Raises:
        DataError: there are no answers, or some without a score.
    """
    groups = [answers for answers in groups if answers]
    if not groups:
        raise DataError("there are no answers to search a price of length with", fix="sample answers first")
    rewards, lengths = _padded(groups)
    size, now = _largest_price(rewards, lengths), search_length_price(rewards, lengths, [0.0])
    if size == 0 or now.difference == 0:
        return now
    # With lengths below 0 the same search finds prices below 0.
    sign = math.copysign(1.0, now.difference)
    tried = {0.0: abs(now.difference)}
    # In whole steps of a power of ten, so that prices are short decimal numbers.
    exponent = math.ceil(math.log10(size))
    low, high = 0, 1
    for digit in range(1, _DIGITS + 1):
        low, high = low * _STEPS, high * _STEPS
        for place in range(low + 1, high):
            price = float(f"{place}e{exponent - digit}")
            tried[price] = search_length_price(rewards, sign * lengths, [price]).difference
            if tried[price] <= 0:
                high = place
                break
            low = place
        if 0 in tried.values():
            break
    best = min(tried, key=lambda price: (abs(tried[price]), price))
    return LengthSearch(sign * best, sign * tried[best] + 0.0)


def _padded(groups: Sequence[Sequence[Answer]]) -> tuple[Tensor, Tensor]:
    """Scores and tokens, [P, K] each, of as many answers to every prompt; the first one again is no other choice."""
    most = max(map(len, groups))
    rows = [[*answers, *[answers[0]] * (most - len(answers))] for answers in groups]
    rewards = torch.tensor([[scored(answer) for answer in row] for row in rows], dtype=torch.float64)
    return rewards, torch.tensor([[answer.tokens for answer in row] for row in rows], dtype=torch.float64)


def _largest_price(rewards: Tensor, lengths: Tensor) -> float:
    """A price from which on the order of lengths alone decides; 0 where all answers to a prompt are equally long."""
    order = lengths.sort(1).values.diff(dim=1)
    gaps = order[order > 0]
    spread = (rewards.max(1).values - rewards.min(1).values).max().item()
    return 2 * spread / gaps.min().item() if len(gaps) else 0.0


def length_difference(pair: Chosen) -> int:
    """Tokens of the chosen answer less those of the rejected one."""
    return pair.chosen.tokens - pair.rejected.tokens


def audit_lengths(differences: Sequence[int]) -> LengthAudit:
    """What the lengths in pairs are like.

    Args:
        differences: for each pair, tokens of the chosen answer less those of the rejected one.
    """
    pairs, unequal = len(differences), sum(map(bool, differences))
    return LengthAudit(
        pairs,
        fmean(differences) if pairs else None,
        stdev(differences) / math.sqrt(pairs) if pairs > 1 else None,
        sum(difference > 0 for difference in differences) / unequal if unequal else None,
    )


def keep_balanced(differences: Sequence[int], tolerance: float = 1.0) -> list[int]:
    """The pairs that are left when chosen and rejected answers are to be equally long on average.

    Pairs go one by one, the one that makes the mean difference largest first, until the mean is below the tolerance.

    Args:
        differences: for each pair, tokens of the chosen answer less those of the rejected one.
        tolerance: tokens, above 0.

    Returns:
        Places of the pairs that stay, in order; none where they all point the same way and are far apart.

    Raises:
        ConfigError: the tolerance is not above 0.
    """
    positive("tolerance", tolerance)
    by_size = sorted(range(len(differences)), key=differences.__getitem__)
    total, first, last = sum(differences), 0, len(differences)
    while first < last and abs(total) >= tolerance * (last - first):
        if total > 0:
            last -= 1
            total -= differences[by_size[last]]
        else:
            total -= differences[by_size[first]]
            first += 1
    return sorted(by_size[first:last])
