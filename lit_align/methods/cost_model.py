"""Cost model: Dai et al. 2023, "Safe RLHF: Safe Reinforcement Learning from Human Feedback".

https://arxiv.org/abs/2310.12773, Sec. 3.2 (equation number not checked). Harm is learnt apart from helpfulness: the
head gives a cost, which is lower for the safer response of a pair, and by its sign says whether a response is safe at
all: above 0 it is not.

The chosen response is the safer one. `lit-align score` reports minus the cost, so that, as of every reward model, a
higher number is better, and one above 0 is safe; an exported model gives the cost itself, under the label `cost`.

Differs: safe-rlhf has a token-wise form too, as TokenReward is of BradleyTerry; here the last token is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import Losses, PairwiseRewardModule
from lit_align.core.outputs import Term
from lit_align.core.ranges import not_negative
from lit_align.functional.pairwise import logistic
from lit_align.functional.rewards import mean_square
from lit_align.functional.unpaired import label_nll


class CostModel(PairwiseRewardModule):
    """Cost model of harm.

    When: it is known which response is safer, and which ones are safe; a limit on harm is to be kept.

    Args:
        l2: weight of the mean squared cost.
        learning_rate: peak learning rate.
    """

    needs_fields = frozenset({"safety"})
    reads = ("chosen_safe", "rejected_safe")

    def __init__(self, *, l2: float = 0.0, learning_rate: float = 2e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = not_negative("l2", l2)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What an exported model's number is."""
        return ("cost",)

    def response_scores(self, outputs: Tensor) -> Tensor:
        """Minus the costs, [M]: higher is better, above 0 is safe."""
        return -outputs

    def losses(self, chosen: Tensor, rejected: Tensor, chosen_safe: Tensor, rejected_safe: Tensor) -> Losses:
        """Losses [B] of the pairs, nats: of which is safer, and of the signs of both costs."""
        costs, safe = torch.stack([chosen, rejected]), torch.stack([chosen_safe, rejected_safe])
        self.meter.add("sign_accuracy", ((costs < 0) == safe).double())
        terms = {
            "preference": Term(logistic(rejected - chosen)),
            "sign": Term(label_nll(-costs, safe).sum(0)),
        }
        return terms | {"l2": Term(self.l2 * mean_square(chosen, rejected))} if self.l2 else terms
