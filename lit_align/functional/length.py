"""What takes the length of a response out of its reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["both", "over", "under"]


def length_normalised(rewards: Tensor, lengths: Tensor, alpha: float = 1.0, floor: float | None = None) -> Tensor:
    """Rewards per token, reward / (alpha + length).

    Dividing a negative reward raises that of long responses; a floor keeps rewards from being negative.

    Args:
        rewards: [M].
        lengths: [M], tokens.
        alpha: > 0, tokens; the larger, the less the length of short responses matters.
        floor: no reward is below it; it is taken off first. None: rewards are divided as they are.

    Returns:
        [M], reward per token.
    """
    return (rewards if floor is None else rewards - floor) / (alpha + lengths)


def length_penalised(rewards: Tensor, lengths: Tensor, weight: float, target: float, side: Side = "both") -> Tensor:
    """Rewards less what a length is off the mark, reward - weight * |length - target|.

    Args:
        rewards: [M].
        lengths: [M], tokens.
        weight: reward per token.
        target: tokens.
        side: take off for lengths over the target, under it, or both.

    Returns:
        [M].
    """
    off = lengths - target
    if side == "over":
        off = off.clamp_min(0)
    elif side == "under":
        off = off.clamp_max(0)
    return rewards - weight * off.abs()


class LengthSearch(NamedTuple):
    """What a search for a price of length has found."""

    alpha: float
    """Reward per token of length."""
    difference: float
    """Mean length of the best responses minus that of the worst, tokens, at this price."""


def search_length_price(rewards: Tensor, lengths: Tensor, grid: Sequence[float]) -> LengthSearch:
    """The price of a token at which the best and the worst responses to prompts are about equally long.

    The best response to a prompt is the one with the highest reward - alpha * length, the worst that with the lowest.
    Of prices that are equally good the one nearest to 0 is taken.

    Args:
        rewards: [P, K], of K responses to P prompts.
        lengths: [P, K], tokens.
        grid: prices to try, at least one.
    """
    best = None
    for alpha in sorted(grid, key=abs):
        priced = rewards - alpha * lengths
        ends = (torch.gather(lengths, 1, place(1, keepdim=True)) for place in (priced.argmax, priced.argmin))
        longest, shortest = (chosen.double().mean() for chosen in ends)
        difference = (longest - shortest).item()
        if best is None or abs(difference) < abs(best.difference):
            best = LengthSearch(float(alpha), difference)
    assert best is not None, "a search needs prices"
    return best
