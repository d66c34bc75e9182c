"""Building blocks of losses on pairs: what two or more methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def logistic(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen response wins, when labels may be flipped.

    Args:
        margins: [B] log-odds that the chosen response wins, nats, with gradient.
        label_smoothing: believed probability that a label is flipped, in [0, 0.5).

    Returns:
        [B] losses, nats, finite for any finite margin.
    """
    if label_smoothing == 0:
        return -logsigmoid(margins)
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def squared_errors(chosen: Tensor, rejected: Tensor, target: float) -> Tensor:
    """Squared distances of the chosen value from a target and of the rejected one from its negative.

    Args:
        chosen: [B], nats, with gradient.
        rejected: [B], nats, with gradient.
        target: nats.

    Returns:
        [B], nats squared, summed over the two.
    """
    return (chosen - target).square() + (rejected + target).square()


def value_with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """The one's value, the other's gradient: for losses that couple examples of several ranks.

    Args:
        value: shape that broadcasts with `surrogate`.
        surrogate: any shape, with gradient.

    Returns:
        The shape of both together.
    """
    return value.detach() + (surrogate - surrogate.detach())


def same_place(values: Tensor, others: Tensor) -> Tensor:
    """What stands among the sorted `others` where each value stands among the sorted `values`.

    Args:
        values: [N]; equal ones keep their order.
        others: [N].

    Returns:
        [N] entries of `others`.
    """
    places = values.argsort(stable=True).argsort()
    return others.sort().values[places]


def log1mexp(x: Tensor) -> Tensor:
    """Logarithm of 1 - exp(x) for x < 0, accurate at both ends.

    Args:
        x: any shape, nats; values above -1.2e-7 (a probability that float32 rounds to 1) count as -1.2e-7, so
            that neither the value nor the gradient overflows.

    Returns:
        The same shape, nats.

    Reference:
        Maechler 2012, "Accurately Computing log(1 - exp(-|a|))", Eq. 7.
    """
    x = x.clamp(max=-torch.finfo(torch.float32).eps)
    near_zero = x > -math.log(2)
    # Both branches see only values of their own range: an overflow in the other one would make the gradient NaN.
    small = torch.where(near_zero, x, torch.full_like(x, -math.log(2)))
    large = torch.where(near_zero, torch.full_like(x, -math.log(2)), x)
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def log_odds(mean_logps: Tensor) -> Tensor:
    """Log-odds of a response whose per-token probability is exp(mean_logps).

    Args:
        mean_logps: [B], nats per token, <= 0.

    Returns:
        [B], nats.
    """
    return mean_logps - log1mexp(mean_logps)
