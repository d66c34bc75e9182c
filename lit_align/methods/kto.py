"""KTO: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization".

https://arxiv.org/abs/2402.01306, Eq. 7. Learns from completions marked good or bad, without pairs. Gains and losses are
judged against a reference point, the policy's divergence from its reference, estimated from prompts with other
prompts' completions.

Differs: TRL shifts the data once, before training, and then must not shuffle; here, as in HALOs, prompts and
completions are mismatched within each micro-batch, and the estimate is pooled over ranks by true counts before it is
clamped at 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import UnpairedModule
from lit_align.core.outputs import SequenceLogps
from lit_align.core.ranges import not_negative, positive


def kto_loss(
    policy: SequenceLogps,
    reference: SequenceLogps,
    label: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Weighted loss of value, with desirable completions above and undesirable ones below the reference point.

    Args:
        policy: summed log-probabilities [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        label: [B] bool, True for desirable.
        kl: scalar >= 0, the reference point, nats, without gradient.
        beta: risk aversion, > 0, per nat.
        desirable_weight: weight of desirable completions.
        undesirable_weight: weight of undesirable completions.

    Returns:
        [B] losses in (0, weight); half a weight where policy and reference agree and kl is 0.
    """
    surprise = beta * (policy.sums - reference.sums - kl)
    desirable = desirable_weight * torch.sigmoid(-surprise)
    undesirable = undesirable_weight * torch.sigmoid(surprise)
    return torch.where(label, desirable, undesirable)


class KTO(UnpairedModule):
    """Kahneman-Tversky Optimization.

    When: feedback is thumbs up and down, not pairs.

    Args:
        beta: risk aversion; larger stays closer to the reference.
        desirable_weight: weight of desirable completions; for unbalanced data choose the weights so that
            desirable_weight * n_desirable / (undesirable_weight * n_undesirable) lies in [1, 1.5].
        undesirable_weight: weight of undesirable completions.
        learning_rate: peak learning rate; DPO's 5e-7 is too small for KTO.
    """

    needs_kl = True

    def __init__(
        self,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        learning_rate: float = 5e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.desirable_weight = not_negative("desirable_weight", desirable_weight)
        self.undesirable_weight = not_negative("undesirable_weight", undesirable_weight)

    def losses(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> Tensor:
        """Losses [B] of the completions."""
        return kto_loss(policy, reference, label, kl, self.beta, self.desirable_weight, self.undesirable_weight)
