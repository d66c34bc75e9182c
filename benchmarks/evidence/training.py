"""Full-batch training of a world's policy, all seeds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Probe = Callable[[Tensor], Any]


def train(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    learning_rate: float,
    optimiser: Literal["adam", "sgd", "norm_adagrad"] = "adam",
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Minimise the losses of all seeds; they do not see each other, as all three rules act within a seed.

    Args:
        objective: parameters [S, ...] to losses [S].
        start: first parameters.
        steps: number of updates.
        learning_rate: their size.
        optimiser: `norm_adagrad` divides by the root of the summed squared norms of a seed's gradients so far.
        after_step: called with the number of the update, from 1, and the parameters.

    Returns:
        The last parameters, detached.
    """
    theta = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=learning_rate) if optimiser == "adam" else None
    seen = torch.zeros(len(theta), dtype=theta.dtype)
    for step in range(1, steps + 1):
        (gradient,) = torch.autograd.grad(objective(theta).sum(), theta)
        if adam is not None:
            theta.grad = gradient
            adam.step()
        else:
            with torch.no_grad():
                if optimiser == "norm_adagrad":
                    seen += gradient.flatten(1).square().sum(1)
                    gradient = gradient / seen.sqrt().view(-1, *[1] * (theta.dim() - 1))
                theta -= learning_rate * gradient
        if after_step is not None:
            after_step(step, theta.detach())
    return theta.detach()
