"""Soft-label reward: Lee et al. 2023, "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI
Feedback".

https://arxiv.org/abs/2309.00267 (equation number not checked). The reward model of canonical RLAIF: an AI labeller says
with which probability the first response is the better one, and the difference of scores is fitted to that probability
by cross-entropy. Labels of which the labeller is sure count as in `bradley_terry.py`; doubtful ones keep scores close.

Differs: the data's probability is used as it is; averaging the labeller over both orders is done where labels are made.
The probability is that the response in the column `chosen` is better; it may be below 1/2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseRewardModule
from lit_align.core.outputs import Term
from lit_align.core.ranges import not_negative
from lit_align.functional.rewards import soft_label_nll


class SoftReward(PairwiseRewardModule):
    """Reward model from soft labels (RLAIF).

    When: a labeller says how likely the first response is the better one, and you need a score for single answers.

    Args:
        center: weight of the mean squared sum of a pair's scores, which fixes the free constant.
        learning_rate: peak learning rate.
    """

    reads = ("label_probability",)
    needs_fields = frozenset({"label_probability"})

    def __init__(self, *, center: float = 0.0, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.center = not_negative("center", center)

    def losses(self, chosen: Tensor, rejected: Tensor, label_probability: Tensor) -> dict[str, Term]:
        """Losses [B] of the pairs, nats, and the regulariser if it is on."""
        terms = {"preference": Term(soft_label_nll(chosen - rejected, label_probability))}
        if self.center:
            terms["center"] = Term(self.center * (chosen + rejected).square())
        return terms
