"""ROPO: Liang et al. 2024, "ROPO: Robust Preference Optimization for Large Language Models".

https://arxiv.org/abs/2404.04102, Eq. 6 (as a reimplementation cites it; not seen in the paper). A mixture of DPO's loss
and the probability of being wrong, which noise cannot bias: the gradient falls again for pairs that the policy
contradicts strongly, so they do not dominate, and they stand out by their loss. With the callback `NoiseFilter` the
pairs of largest loss are dropped between epochs, which is the paper's alternating optimisation; without it this is the
loss alone.

Differs: new responses for the prompts that were dropped (rejection sampling) are not drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic


def ropo_loss(policy: PairLogps, reference: PairLogps, beta: float, alpha: float) -> Tensor:
    """DPO's loss plus alpha times the probability that the rejected response wins, scaled to slopes of at most beta.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: KL strength, > 0, per nat.
        alpha: weight of the noise-tolerant part, > 2.

    Returns:
        [B] losses.
    """
    margins = beta * policy.logratios(reference).margins
    return 4 * alpha / (1 + alpha) ** 2 * (logistic(margins) + alpha * torch.sigmoid(-margins))


class ROPO(PairwiseModule):
    """Robust Preference Optimization.

    When: many labels are wrong; with the callback NoiseFilter, which drops the pairs that look it.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: weight of the noise-tolerant part, above 2.
    """

    reads = ("source_rows",)
    row_weights: Tensor | None = None
    """[rows + 1] weights of the training data's rows, set by NoiseFilter; None: all count the same."""

    def __init__(self, *, beta: float = 0.1, alpha: float = 14.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not alpha > 2:
            raise ConfigError("a setting is out of range", got=f"alpha: {alpha}", fix="give a number above 2")
        self.beta = positive("beta", beta)
        self.alpha = positive("alpha", alpha)

    def losses(self, policy: PairLogps, reference: PairLogps, source_rows: Tensor) -> Tensor:
        """Losses [B] of the pairs; in training times the weights of their rows."""
        losses = ropo_loss(policy, reference, self.beta, self.alpha)
        if self.row_weights is None or not self.training:
            return losses
        return self.row_weights.to(source_rows.device)[source_rows] * losses
