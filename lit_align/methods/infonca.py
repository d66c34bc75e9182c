"""InfoNCA: Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards".

https://arxiv.org/abs/2402.05369 (equation number not checked). The responses of a list are classified: softmax of the
implicit rewards, beta * log(policy / reference), against softmax of the data's rewards. With two responses and all of
the label on one it is DPO's loss, Eq. 7 of https://arxiv.org/abs/2305.18290.

Differs: the authors' code adds 0.01 to the first response's reward to break ties, which at small temperatures decides
them; here equal rewards share the label. The paper's alpha is 1 / `reward_temperature`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import ListwiseModule
from lit_align.core.outputs import ListLogps
from lit_align.core.ranges import positive
from lit_align.functional.listwise import masked_log_softmax, soft_labels


def infonca_loss(policy: ListLogps, reference: ListLogps, labels: Tensor, beta: float) -> Tensor:
    """Cross entropy of soft labels and the softmax of the implicit rewards.

    Args:
        policy: summed log-probabilities [B, K], nats, with gradient.
        reference: the same under the reference, without gradient.
        labels: [B, K], shares that sum to 1 along each list.
        beta: KL strength, > 0, per nat.

    Returns:
        [B] losses, nats; the logarithm of a list's length where policy and reference agree.
    """
    return -(labels * masked_log_softmax(beta * policy.logratios(reference), policy.mask)).sum(-1)


class InfoNCA(ListwiseModule):
    """InfoNCA, contrast among the responses of a list.

    When: prompts have several scored responses, and only their order and distances matter.

    Args:
        beta: KL strength; larger stays closer to the reference.
        reward_temperature: the data's rewards are divided by it, then softmax makes labels of them.
        learning_rate: peak learning rate; the paper's 5e-6 is for QLoRA.
    """

    def __init__(
        self, *, beta: float = 0.01, reward_temperature: float = 1.0, learning_rate: float = 5e-6, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.reward_temperature = positive("reward_temperature", reward_temperature)

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> Tensor:
        """Losses [B] of the lists, nats."""
        return infonca_loss(policy, reference, soft_labels(scores, policy.mask, self.reward_temperature), self.beta)
