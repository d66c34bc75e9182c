"""BCO on pairs: Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment".

https://arxiv.org/abs/2404.04656; its Theorem 1 bounds DPO's Eq. 7 from above by the cross entropy of a classifier whose
logit is the implicit reward: chosen responses are one class, rejected ones the other. The bound is tightest when
rewards are measured from their mean, delta, which is kept over the whole run and saved with it.

Differs: TRL 1.16's `bco_pair` has no delta (`shift: false`), and its documentation prints DPO's loss for it. As there,
a pair's loss is the sum of its two terms, twice the mean over single completions (`bco.py`). The mean takes in each
micro-batch, of all ranks, before it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.core.running import RunningMean
from lit_align.functional.pairwise import logistic


def bco_pair_loss(chosen: Tensor, rejected: Tensor, delta: Tensor | float) -> Tensor:
    """Cross entropy of telling chosen from rejected responses by their rewards.

    Args:
        chosen: [B] rewards of the chosen responses, nats, with gradient.
        rejected: [B] of the rejected ones.
        delta: scalar, what rewards are measured from, without gradient.

    Returns:
        [B] losses, nats, summed over the two responses; 2 log 2 where all rewards are delta.
    """
    return logistic(chosen - delta) + logistic(delta - rejected)


class BCOPair(PairwiseModule):
    """Binary Classifier Optimization on pairs.

    When: each response should be judged by itself, although the data are pairs.

    Args:
        beta: scale of the rewards; larger stays closer to the reference.
        shift: measure rewards from their running mean, as in the paper; false: from 0, as in TRL.
    """

    def __init__(self, *, beta: float = 0.01, shift: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.delta = RunningMean() if shift else None

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats; all ranks call this together."""
        chosen, rejected = self.rewards(policy, reference)
        if self.delta is None:
            return bco_pair_loss(chosen, rejected, 0.0)
        if self.training:
            self.delta.update(torch.cat([chosen, rejected]))
        return bco_pair_loss(chosen, rejected, self.delta.mean)
