"""SPPO with hard labels: Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment".

https://arxiv.org/abs/2405.00675, Eq. 4.7 (so TRL's code) with the winner's probability of winning set to 1 and the
loser's to 0. The policy plays against itself: in each round pairs are made of its own responses, and the log-ratio of
each response to the policy at the start of the round is regressed onto its chance to win, minus a half, over beta.

This class is the training of one round, with that policy as `model.policy` and hence as the reference; sampling,
judging and the loop over rounds are the callback `SPPORounds`.

Differs: the paper's labels are soft, estimated from several samples, and its loss is half of this one; TRL 1.16's
`sppo_hard` is this loss. The paper's eta is 1 / beta.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import squared_errors


def sppo_hard_loss(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    """Squared distances of the log-ratios from 1 / (2 beta) for the chosen and its negative for the rejected response.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: regularisation strength, > 0.

    Returns:
        [B] losses, nats squared; 1 / (2 beta^2) where policy and reference agree.
    """
    ratios = policy.logratios(reference)
    return squared_errors(ratios.chosen, ratios.rejected, 1 / (2 * beta))


class SPPOHard(PairwiseModule):
    """Self-Play Preference Optimization with hard labels.

    When: pairs are made of the policy's own responses, round by round.

    Args:
        beta: regularisation strength; log-ratios are driven towards plus and minus 1 / (2 beta) nats, 500 by default.
    """

    def __init__(self, *, beta: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats squared."""
        return sppo_hard_loss(policy, reference, self.beta)
