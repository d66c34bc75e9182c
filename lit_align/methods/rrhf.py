"""RRHF: Yuan et al. 2023, "RRHF: Rank Responses to Align Language Models with Human Feedback without tears".

https://arxiv.org/abs/2304.05302 (equation number not checked). The policy's own log-probabilities per token must rank a
list's responses as their rewards do, by a hinge without margin over all pairs, and the best response is imitated. No
reference model.

Differs: in the authors' code a label tensor is overwritten before lengths are counted, so that all scores and the
imitation term are divided by the length of the padded row. Here, as the paper writes, scores are divided by the length
of their own response, and the imitation is of the whole response. The paper weighs the ranking by 1, the default of the
authors' code is 100.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import ListwiseModule
from lit_align.core.outputs import ListLogps, Term
from lit_align.core.ranges import not_negative
from lit_align.functional.listwise import better_than, differences


def ranking_loss(policy: ListLogps, scores: Tensor, length_penalty: float = 1.0) -> Tensor:
    """By how much worse responses are likelier than better ones, summed over the pairs of a list.

    Args:
        policy: summed log-probabilities and lengths [B, K], nats and tokens, with gradient.
        scores: [B, K], the data's rewards; pairs with equal ones do not count.
        length_penalty: power of the length that a log-probability is divided by; 1 makes means per token.

    Returns:
        [B] losses, nats per token at a penalty of 1; 0 where the order is right.
    """
    values = policy.sums / policy.lengths.clamp(min=1).to(policy.sums.dtype) ** length_penalty
    wrong = -differences(values).clamp(max=0)
    return (wrong * better_than(scores, policy.mask)).sum((-1, -2))


class RRHF(ListwiseModule):
    """Rank Responses from Human Feedback.

    When: prompts have several scored responses, and memory for a reference is short.

    Args:
        rank_weight: weight of the ranking against the imitation of the best response.
        length_penalty: power of the length that a response's log-probability is divided by.
        learning_rate: peak learning rate.
    """

    needs_reference = False
    rewards_per_token = True

    def __init__(
        self,
        *,
        rank_weight: float = 1.0,
        length_penalty: float = 1.0,
        learning_rate: float = 2e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rank_weight = not_negative("rank_weight", rank_weight)
        self.length_penalty = not_negative("length_penalty", length_penalty)

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> dict[str, Term]:
        """The weighted ranking loss, and the negative log-likelihood of the best response, each [B]."""
        ranking = self.rank_weight * ranking_loss(policy, scores, self.length_penalty)
        return {"ranking": Term(ranking), "nll": Term(-policy.sums[:, 0])}
