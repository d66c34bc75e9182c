"""NCA: Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards".

https://arxiv.org/abs/2402.05369 (equation number not checked). Each response is told from noise by itself: its implicit
reward, beta * log(policy / reference), rises with its share of the label and falls with the share that a random pick
would have. Unlike InfoNCA's, whose softmax is DPO's Eq. 7 (https://arxiv.org/abs/2305.18290) for two responses, the
absolute reward counts, so that good responses do not become less likely.

Differs: as for InfoNCA, no tie-breaking. Lists may differ in length; the second term is the mean over a list's own
responses.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_align.core.outputs import ListLogps
from lit_align.functional.listwise import soft_labels
from lit_align.methods.infonca import InfoNCA


def nca_loss(policy: ListLogps, reference: ListLogps, labels: Tensor, beta: float) -> Tensor:
    """Each response against noise, weighted by its label on one side and equally on the other.

    Args:
        policy: summed log-probabilities [B, K], nats, with gradient.
        reference: the same under the reference, without gradient.
        labels: [B, K], shares that sum to 1 along each list, 0 where a list is shorter.
        beta: KL strength, > 0, per nat.

    Returns:
        [B] losses, nats; 2 log 2 where policy and reference agree.
    """
    rewards = beta * policy.logratios(reference)
    equal = policy.mask.to(rewards.dtype) / policy.mask.sum(-1, keepdim=True)
    return -(labels * logsigmoid(rewards) + equal * logsigmoid(-rewards)).sum(-1)


class NCA(InfoNCA):
    """Noise Contrastive Alignment.

    When: prompts have several scored responses, and the good ones must not become less likely.

    Args:
        beta: KL strength; larger stays closer to the reference.
        reward_temperature: the data's rewards are divided by it, then softmax makes labels of them.
        learning_rate: peak learning rate; the paper's 5e-6 is for QLoRA.
    """

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> Tensor:
        """Losses [B] of the lists, nats."""
        return nca_loss(policy, reference, soft_labels(scores, policy.mask, self.reward_temperature), self.beta)
