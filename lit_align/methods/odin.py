"""ODIN: Chen et al. 2024, "ODIN: Disentangled Reward Mitigates Hacking in RLHF".

https://arxiv.org/abs/2402.07319 (equation number not checked). Two heads share one model: their sum learns the
preferences, one is made to follow the length of responses and the other not to, and their directions are kept apart.
What preferences owe to length goes into the one; the other, quality, is what is used.

The rows of the head are centred and of unit length wherever they are used, and an exported model holds the row of
quality alone, as it is used: a reward model with one number. `accuracy` and rewards are those of quality.

Differs: the authors' code adds 1 to the paper's length loss, so that it cannot be negative, as here. RLHFlow's
version sums the heads over the whole batch before the sigmoid, and has no loss of directions; this one does neither.
A correlation is skipped where scores or lengths of a batch are all equal.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_align.core.batch import Batch
from lit_align.core.kinds import PairwiseRewardModule
from lit_align.core.metrics import over_ranks, with_all_ranks
from lit_align.core.outputs import Term
from lit_align.core.ranges import not_negative
from lit_align.functional.pairwise import logistic, value_with_gradient_of
from lit_align.functional.rewards import correlation

LEAST = 8
"""Responses that a correlation should be of."""


class ODIN(PairwiseRewardModule):
    """Reward model with its length bias in a head of its own.

    When: raters prefer long answers, and the reward is to be of what they say.

    Correlations are those of the responses of a micro-batch, over all ranks, of which there should be 8 and more, or a
    warning says so; with accumulation each micro-batch has its own.

    Args:
        length_weight: weight of the correlations with length.
        overlap_weight: weight of how far the two heads point the same way.
        learning_rate: peak learning rate.
    """

    normalised_head = True
    reads = ("chosen_lengths", "rejected_lengths")

    def __init__(
        self, *, length_weight: float = 1.0, overlap_weight: float = 1.0, learning_rate: float = 2e-5, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.length_weight = not_negative("length_weight", length_weight)
        self.overlap_weight = not_negative("overlap_weight", overlap_weight)
        self._has_warned = False

    @property
    def num_outputs(self) -> int:
        """Two, of quality and of length."""
        return 2

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the two are."""
        return ("quality", "length")

    def response_scores(self, outputs: Tensor) -> Tensor:
        """Quality [M] of the two [M, 2]."""
        return outputs[:, 0]

    def facts(self, batch: Batch) -> dict[str, Any]:
        """Lengths, and what the call of the policy has left behind of its two heads."""
        return super().facts(batch) | {"overlap": self.policy.overlap}

    def losses(
        self, chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, overlap: Tensor
    ) -> dict[str, Term]:
        """Losses [B] of the pairs: of preferences, nats, and of correlations and directions; ranks call together."""
        scores, _ = with_all_ranks(torch.cat([chosen, rejected]))
        if self.training and len(scores) < LEAST and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"A micro-batch has {len(scores)} responses, over all ranks: a correlation of fewer than {LEAST} says "
                "next to nothing of how scores follow length. Raise data.batch_size, or set data.drop_last: true if it "
                "is the last of an epoch."
            )
        lengths, _ = over_ranks(torch.cat([chosen_lengths, rejected_lengths]))
        of_quality, there = correlation(scores[:, 0], lengths)
        of_length, also_there = correlation(scores[:, 1], lengths)
        self.meter.add("correlation/quality", of_quality, there)
        self.meter.add("correlation/length", of_length, also_there)
        apart = of_quality.abs() + torch.where(also_there, 1 - of_length, 0.0)
        # Each pair has the batch's value; own scores are part of all ranks' pairs, whose gradient reaches them here.
        surrogate = (apart * len(scores) / (2 * len(chosen))).expand(len(chosen))
        terms = {
            "preference": Term(logistic((chosen - rejected).sum(1))),
            "length": Term(self.length_weight * value_with_gradient_of(apart, surrogate)),
        }
        if self.overlap_weight:
            terms["overlap"] = Term(self.overlap_weight * overlap.double().expand(len(chosen)))
        return terms
