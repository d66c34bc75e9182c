"""PRO: Song et al. 2023, "Preference Ranking Optimization for Human Alignment".

https://arxiv.org/abs/2306.17492 (equation number not checked). The best response must win against all others, then the
second best against those behind it, and so on: a softmax at each place of the list, over mean log-probabilities per
token. Each contest's logits are scaled by differences of the data's rewards, and the best response is imitated. No
reference model.

Differs: the authors' code adds 1e-10 inside the logarithm, and on padded rows counts one token too many; neither is
done here. Its n, in the weight of the imitation 0.05 (n - 1)^2, is a constant of the data; here it is the length of
each list. Scales carry no gradient; equal rewards give a scale of 0, so that such a response only shifts the
contest by a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import ListwiseModule
from lit_align.core.outputs import ListLogps, Term
from lit_align.core.ranges import not_negative
from lit_align.functional.listwise import differences


def ranking_loss(policy: ListLogps, scores: Tensor, use_temperature: bool = True) -> Tensor:
    """Negative log-likelihood that each response wins against all those behind it.

    Args:
        policy: summed log-probabilities and lengths [B, K], best response first, nats and tokens, with gradient.
        scores: [B, K], the data's rewards, falling along each list.
        use_temperature: scale the logits of place k by differences of the rewards: those of the responses behind it
            by their distance to k, its own by the largest of these.

    Returns:
        [B] losses, nats; 0 for a list of one.
    """
    behind = torch.ones_like(policy.mask[0]).tile(policy.mask.shape[-1], 1).triu(1) & policy.mask[:, None, :]
    logits = policy.means[:, None, :].expand(behind.shape)
    own = policy.means
    if use_temperature:
        scale = torch.where(behind, differences(scores), 0.0)
        logits, own = logits * scale, own * scale.amax(-1)
    contests = torch.cat([own[:, :, None], logits.masked_fill(~behind, -torch.inf)], -1)
    return -(contests.log_softmax(-1)[:, :, 0] * behind.any(-1)).sum(-1)


class PRO(ListwiseModule):
    """Preference Ranking Optimization.

    When: prompts have several scored responses, whose whole order matters; memory for a reference is short.

    Args:
        use_temperature: scale each contest by differences of the data's rewards.
        beta_base: the best response is imitated with weight beta_base * (n - 1)^2 for a list of n.
        learning_rate: peak learning rate.
    """

    needs_reference = False
    rewards_per_token = True

    def __init__(
        self, *, use_temperature: bool = True, beta_base: float = 0.05, learning_rate: float = 5e-6, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.use_temperature = use_temperature
        self.beta_base = not_negative("beta_base", beta_base)

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> dict[str, Term]:
        """The ranking loss, and the weighted negative log-likelihood of the best response, each [B], nats."""
        others = policy.mask.sum(-1) - 1
        nll = -policy.sums[:, 0] * others**2 * self.beta_base
        return {"ranking": Term(ranking_loss(policy, scores, self.use_temperature)), "nll": Term(nll)}
