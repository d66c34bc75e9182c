"""MaPPO: Lan et al. 2025, "MaPPO: Maximum a Posteriori Preference Optimization with Prior Knowledge".

https://arxiv.org/abs/2507.21183, Eq. 8 (of version 5). A reward model's opinion of how much better the chosen response
is, between 0 and 1, scales the rejected response's log-ratio: where both are about equally good, the rejected one is
hardly pushed down. A gap of 1 is DPO.

Differs: the paper's derivation from a prior has a slip of a sign; its final formula is what counts. It wants scores in
[0, 1]; data with another scale name its width as `score_range`. A gap below 0, a label that the scores contradict,
counts as 0.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic


def mappo_loss(policy: PairLogps, reference: PairLogps, gap: Tensor, beta: float) -> Tensor:
    """DPO's loss with the rejected response's log-ratio scaled by the gap of scores.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        gap: [B] in [0, 1], by how much the chosen response was scored better.
        beta: KL strength, > 0, per nat.

    Returns:
        [B] losses, nats.
    """
    ratios = policy.logratios(reference)
    return logistic(beta * (ratios.chosen - gap * ratios.rejected))


class MaPPO(PairwiseModule):
    """Maximum a Posteriori Preference Optimization.

    When: responses have scores of a reward model, and many pairs are nearly even.

    Args:
        beta: KL strength; larger stays closer to the reference.
        score_range: difference of the best and the worst score that the data can have; gaps are divided by it.
    """

    reads = ("chosen_scores", "rejected_scores")
    needs_fields = frozenset({"scores"})

    def __init__(self, *, beta: float = 0.1, score_range: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.score_range = positive("score_range", score_range)

    def losses(self, policy: PairLogps, reference: PairLogps, chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats."""
        gap = ((chosen_scores - rejected_scores) / self.score_range).clamp(0, 1)
        return mappo_loss(policy, reference, gap, self.beta)
