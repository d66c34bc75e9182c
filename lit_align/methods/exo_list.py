"""EXO on rewards: Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment".

https://arxiv.org/abs/2402.00856 (equation number not checked). The softmax of a list's implicit rewards, beta *
log(policy / reference), is drawn to the softmax of the data's rewards by the reverse divergence, which seeks modes, as
reinforcement learning does; InfoNCA has the forward one, which is DPO's Eq. 7 (https://arxiv.org/abs/2305.18290) for
two responses and a hard label.

Differs: the authors also divide the logits by the temperature that the responses were sampled at; here they are as they
are. The paper calls beta beta_pi, and `reward_temperature` beta_r.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.outputs import ListLogps
from lit_align.functional.listwise import masked_log_softmax
from lit_align.methods.infonca import InfoNCA


def exo_loss(policy: ListLogps, reference: ListLogps, scores: Tensor, beta: float, reward_temperature: float) -> Tensor:
    """Divergence of the softmax of implicit rewards from the softmax of the data's.

    Args:
        policy: summed log-probabilities [B, K], nats, with gradient.
        reference: the same under the reference, without gradient.
        scores: [B, K], the data's rewards.
        beta: scale of the implicit rewards, > 0, per nat.
        reward_temperature: > 0, in units of the scores.

    Returns:
        [B] losses, nats, 0 or more.
    """
    own = masked_log_softmax(beta * policy.logratios(reference), policy.mask)
    data = masked_log_softmax(scores / reward_temperature, policy.mask)
    # Absent places: 0 in both, so that they add 1 * (0 - 0).
    return (own.exp() * (own - data)).sum(-1)


class ListwiseEXO(InfoNCA):
    """Efficient Exact Optimization from rewards.

    When: prompts have several scored responses, and the policy should settle on the best kind rather than cover all.

    Args:
        beta: scale of the implicit rewards.
        reward_temperature: the data's rewards are divided by it.
        learning_rate: peak learning rate.
    """

    def __init__(
        self, *, beta: float = 0.5, reward_temperature: float = 0.5, learning_rate: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(beta=beta, reward_temperature=reward_temperature, learning_rate=learning_rate, **kwargs)

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> Tensor:
        """Losses [B] of the lists, nats."""
        return exo_loss(policy, reference, scores, self.beta, self.reward_temperature)
