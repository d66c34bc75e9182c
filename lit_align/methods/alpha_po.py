"""AlphaPO: Gupta et al. 2025, "AlphaPO: Reward Shape Matters for LLM Alignment".

https://arxiv.org/abs/2501.03884 (equation number not checked): SimPO's Eq. 6 (https://arxiv.org/abs/2405.14734) with a
reward of another shape. With p the geometric mean of a response's token probabilities, the reward is beta *
(1 - p^-alpha) / alpha in place of beta * log p, which is its limit for alpha towards 0. Alpha sets how the reward's
slope changes with the likelihood, and so how far chosen responses lose probability while margins grow.

Differs: TRL 1.16 (`loss_type: alphapo`) computes powers of probabilities, which overflow for unlikely responses; here
the reward goes on as a straight line where p^-alpha exceeds e^20. The default alpha is ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import finite
from lit_align.functional.pairwise import logistic
from lit_align.methods.simpo import SimPO

_STRAIGHT = 20.0
"""Where the exponential goes on as its tangent: far beyond log-probabilities of any model, and far from overflow."""


def alpha_reward(mean_logps: Tensor, alpha: float) -> Tensor:
    """Reward of a response: (1 - p^-alpha) / alpha with p = exp(mean_logps); rises with p for every alpha.

    Args:
        mean_logps: [B], nats per token, <= 0, with gradient.
        alpha: shape; 0 gives `mean_logps` itself.

    Returns:
        [B], in units of beta.
    """
    if alpha == 0:
        return mean_logps
    exponent = -alpha * mean_logps
    curved = torch.expm1(exponent.clamp(max=_STRAIGHT))
    return -(curved + math.exp(_STRAIGHT) * (exponent - _STRAIGHT).clamp(min=0)) / alpha


class AlphaPO(SimPO):
    """AlphaPO.

    When: SimPO makes chosen responses too unlikely, or stops too early: alpha trades the one for the other.

    Args:
        beta: scale of the reward.
        gamma: target margin; None for `gamma_beta_ratio` times beta.
        gamma_beta_ratio: the same in units of beta; 0.5 where neither is given.
        alpha: shape of the reward; 0 is SimPO, above 0 unlikely responses weigh more, below 0 likely ones.
    """

    def __init__(
        self,
        *,
        beta: float = 2.0,
        gamma: float | None = None,
        gamma_beta_ratio: float | None = None,
        alpha: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, gamma_beta_ratio=gamma_beta_ratio, **kwargs)
        self.alpha = finite("alpha", alpha)

    def preference(self, policy: PairLogps) -> Tensor:
        """Negative log-likelihood [B], nats, that the chosen response's shaped reward wins by gamma."""
        chosen, rejected = self.rewards(policy, policy)
        return logistic(chosen - rejected - self.gamma, self.label_smoothing)

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Shaped rewards of chosen and rejected, each [B]."""
        mean = policy.mean()
        return self.beta * alpha_reward(mean.chosen, self.alpha), self.beta * alpha_reward(mean.rejected, self.alpha)
