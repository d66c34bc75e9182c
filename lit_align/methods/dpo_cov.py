"""DPO-COV: Chen et al. 2025, "Provably Mitigating Corruption, Overoptimization, and Verbosity Simultaneously in Offline
and Online RLHF/DPO Alignment".

https://arxiv.org/abs/2510.05526; of its reward-model form RLHF-COV (Eqs. 10 and 11 of the ICLR submission) this is the
offline counterpart. Three remedies in one loss: a noise variable for each pair explains away labels that the policy
contradicts, at a price; the chosen responses' log-likelihood guards against overoptimisation; a term in the lengths
takes out the reward for being long.

Differs: the noise that is best for the current policy is put in at once, and the pair's loss becomes linear, with slope
-`noise_cost`, where the margin falls below log(1 / noise_cost - 1). Minimising over it leaves no gradient of its own.
The online form needs samples of the reference.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


def noise_of(margins: Tensor, noise_cost: float) -> Tensor:
    """How much of each margin's failure is best put down to a wrong label.

    Args:
        margins: [B] log-odds that the chosen response wins, nats.
        noise_cost: price of noise per nat, > 0.

    Returns:
        [B] >= 0, nats, without gradient; 0 for a price of 1 or more.
    """
    if noise_cost >= 1:
        return torch.zeros_like(margins)
    return (math.log(1 / noise_cost - 1) - margins.detach()).clamp(min=0)


class DPOCOV(PairwiseModule):
    """DPO against corruption, overoptimisation and verbosity (DPO-COV).

    When: labels are noisy, and longer responses were preferred for being long.

    Args:
        beta: KL strength; larger stays closer to the reference.
        noise_cost: price of explaining a label away; smaller trusts labels less, 1 or more trusts them all. The
            paper's lambda.
        sft_weight: weight, times beta, of the chosen response's negative log-likelihood, summed over its tokens: keep
            it tiny. The paper's eta.
        length_weight: log-odds per token by which the longer response is expected to win. The paper's omega.
    """

    def __init__(
        self,
        *,
        beta: float = 0.05,
        noise_cost: float = 0.7,
        sft_weight: float = 5e-4,
        length_weight: float = 5e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.noise_cost = positive("noise_cost", noise_cost)
        self.sft_weight = not_negative("sft_weight", sft_weight)
        self.length_weight = not_negative("length_weight", length_weight)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        longer = policy.chosen_lengths - policy.rejected_lengths
        margins = self.beta * policy.logratios(reference).margins + self.length_weight * longer
        noise = noise_of(margins, self.noise_cost)
        nll = -self.beta * self.sft_weight * policy.chosen
        return self.noise_cost * noise + logistic(margins + noise) + nll
