"""Dr. DPO: Wu et al. 2024, "Towards Robust Alignment of Language Models: Distributionally Robustifying Direct
Preference Optimization".

https://arxiv.org/abs/2407.07880 (equation number not checked). A soft minimum over the pairs in place of the mean:
pairs with a large loss, whose labels are likely to be wrong, count less, and the less the smaller beta' is.

Differs: the minimum is over the micro-batches of all ranks together, where the authors' code takes each rank by itself;
under accumulation it is over each micro-batch, so larger batches are not the same as accumulated ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import finite, positive
from lit_align.functional.pairwise import value_with_gradient_of
from lit_align.methods.dpo import DPO


def soft_minimum(losses: Tensor, beta_prime: float) -> Tensor:
    """A mean that large losses enter less: -beta' log(mean(exp(-loss / beta'))), over all ranks.

    Args:
        losses: [B], with gradient; all ranks call this together.
        beta_prime: > 0 and finite; the larger, the closer to the mean, the smaller, the closer to the minimum.

    Returns:
        [B], the value in every place; their mean over all ranks has the gradient of the value.
    """
    everyone, own = over_ranks(losses)
    exponents = -everyone / beta_prime
    value = -beta_prime * (exponents.logsumexp(0) - math.log(len(everyone)))
    weights = len(everyone) * torch.softmax(exponents, 0)
    return value_with_gradient_of(value, weights[own] * losses)


class DrDPO(DPO):
    """Distributionally robust DPO.

    When: some labels are wrong, and nobody knows how many.

    Args:
        beta: KL strength; larger stays closer to the reference.
        beta_prime: trust in the labels; smaller discounts large losses more, a very large one is DPO.
    """

    def __init__(self, *, beta: float = 0.1, beta_prime: float = 1.0, **kwargs: Any) -> None:
        super().__init__(beta=beta, **kwargs)
        self.beta_prime = finite("beta_prime", positive("beta_prime", beta_prime))

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats: the batch's in every place; records DPO's."""
        losses = super().losses(policy, reference)
        self.meter.add("dpo_loss", losses)
        return soft_minimum(losses, self.beta_prime)
