"""Building blocks of losses on scores of responses: what two or more methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def mean_square(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of the squares of two scores, of the same shape as each, with gradient."""
    return (chosen.square() + rejected.square()) / 2


def soft_label_nll(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of labels that may lie between wrong and right.

    Args:
        logits: [N] log-odds of right, nats, with gradient.
        label: [N] in 0..1, how far each is right.

    Returns:
        [N] losses, nats, finite for any finite logit.
    """
    return -label * logsigmoid(logits) - (1 - label) * logsigmoid(-logits)


def correlation(values: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's correlation, and whether there is one: where either does not vary, there is none.

    Args:
        values: [N] float64, with gradient.
        others: [N].

    Returns:
        Scalar in -1..1 with gradient, 0 where there is none; scalar bool.
    """
    one, two = (x.double() - x.double().mean() for x in (values, others))
    # Of what is equal, means may differ by rounding.
    varies = [x.abs().max() > 1e-12 * y.double().abs().max() for x, y in ((one, values), (two, others))]
    there = varies[0] & varies[1]
    # Scaled first: the squares of tiny numbers underflow. Constants in place of what does not vary keep the gradient
    # from being nan.
    one, two = (torch.where(there, x / x.detach().abs().max().clamp(min=1e-300), 1.0) for x in (one, two))
    return torch.where(there, (one * two).sum() / (one.norm() * two.norm()), 0.0), there


def bootstrap_counts(rows: Tensor, members: int, seed: int) -> Tensor:
    """How often each row is drawn for each member of an ensemble, as when rows are drawn with replacement.

    The counts follow a Poisson distribution of mean 1, and depend on nothing but row, member and seed: they are the
    same in every epoch, batch and process.

    Args:
        rows: [B] int64, numbers of rows of the data.
        members: K.
        seed: of the drawing.

    Returns:
        [B, K] float64.
    """
    member = torch.arange(members, device=rows.device)
    mixed = _mixed(_mixed(_mixed(rows[:, None] + 1) + member + 1) + seed)
    uniform = mixed.double() / 2**32
    total, counts = 0.0, torch.zeros_like(uniform)
    for count in range(12):
        total += math.exp(-1) / math.factorial(count)
        counts += uniform >= total
    return counts


def _mixed(x: Tensor) -> Tensor:
    """Integers in 0..2^32 - 1 that look unrelated for neighbouring integers (multiply and shift, after C. Wellons)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x31848BAB)):
        x = x & 0xFFFFFFFF
        x = (x ^ (x >> shift)) * factor
    x = x & 0xFFFFFFFF
    return x ^ (x >> 16)
