"""Building blocks of losses on lists of responses: a list may be shorter than the longest one of its batch.

Legend of shapes: `B` lists, `K` places. `mask` [B, K] says where a list has a response; whatever stands elsewhere has
no effect on any result, and results there are 0 unless said otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_log_softmax(values: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of a list's responses under the softmax of their values.

    Args:
        values: [B, K], nats, with gradient.
        mask: [B, K] bool, one True at least in each list.

    Returns:
        [B, K], nats.
    """
    return torch.where(mask, values.masked_fill(~mask, -torch.inf).log_softmax(-1), 0.0)


def soft_labels(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Shares of a list's responses, softmax of score / temperature; equal scores have equal shares.

    Args:
        scores: [B, K], without gradient.
        mask: [B, K] bool.
        temperature: > 0, in units of the scores; small ones give all to the best.

    Returns:
        [B, K], which sum to 1 along each list.
    """
    return torch.where(mask, masked_log_softmax(scores / temperature, mask).exp(), 0.0)


def differences(values: Tensor) -> Tensor:
    """[B, K, K], value of response i minus value of response j."""
    return values[:, :, None] - values[:, None, :]


def better_than(scores: Tensor, mask: Tensor) -> Tensor:
    """[B, K, K] bool: whether response i of a list has a higher score than its response j."""
    return (differences(scores) > 0) & mask[:, :, None] & mask[:, None, :]


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Place of each response when a list is ordered by falling value; of equal ones the first comes first.

    Args:
        values: [B, K]; no gradient passes.
        mask: [B, K] bool.

    Returns:
        [B, K] int64, from 1 to the list's length; absent places get what lies behind.
    """
    order = values.detach().masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) + 1
