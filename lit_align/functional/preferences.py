"""Which of two responses is better, said by something that reads both, and what their order does to it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

BothOrders = Literal["antisymmetric", "mean"]


def both_orders(first: Tensor, second: Tensor, how: BothOrders = "antisymmetric") -> Tensor:
    """Probability that A is better than B, whatever a model thinks of the first place.

    Args:
        first: [B] logit that A is better, in a text in which A stands first.
        second: [B] logit that B is better, in a text in which B stands first.
        how: `antisymmetric`, sigma((first - second) / 2); or `mean` of the two probabilities.

    Returns:
        [B], exactly 1 - the same with A and B exchanged.
    """
    if how == "mean":
        return (first.sigmoid() + (-second).sigmoid()) / 2
    return ((first - second) / 2).sigmoid()
