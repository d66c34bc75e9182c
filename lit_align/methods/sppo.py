"""SPPO: Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment".

https://arxiv.org/abs/2405.00675, Eq. 4.7 (so TRL's code of the hard labels). The policy plays against itself: in each
round it answers every prompt several times, and a preference model says with which probability each answer beats the
policy, the mean over the others. The log-ratio of a response to the policy at the start of the round is regressed onto
eta times (that probability less a half). A response that wins half of the time stays where it is.

This class is the training of one round, with that policy as `model.policy` and hence as the reference; sampling,
judging and the loop over rounds are the callback `SPPORounds`. Of each prompt the best and the worst answer are the
pair.

Differs: the paper's eta is 1 / beta, here `beta`, 0.001 by default as in the paper. That asks for hundreds of nats,
which only the direction of a clipped gradient survives: take 0.05 to 0.2 for small models. `sppo_hard.py` sets the
probabilities to 1 and 0, and is twice this loss.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive


def sppo_loss(
    policy: PairLogps, reference: PairLogps, chosen_wins: Tensor, rejected_wins: Tensor, eta: float
) -> Tensor:
    """Half the squared distances of both log-ratios from eta times (probability of winning - 1/2).

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        chosen_wins: [B] in [0, 1], probability that the chosen response beats the policy of the round's start.
        rejected_wins: [B] in [0, 1], the same of the rejected response.
        eta: nats per unit of probability, > 0.

    Returns:
        [B] losses, nats squared; 0 where both log-ratios are what the probabilities ask for.
    """
    ratios = policy.logratios(reference)
    chosen = ratios.chosen - eta * (chosen_wins - 0.5)
    rejected = ratios.rejected - eta * (rejected_wins - 0.5)
    return (chosen.square() + rejected.square()) / 2


class SPPO(PairwiseModule):
    """Self-Play Preference Optimization.

    When: pairs are made of the policy's own responses, and a preference model gives each a probability of winning.

    Args:
        beta: regularisation strength; a log-ratio is driven towards (probability - 1/2) / beta nats.
    """

    reads = ("chosen_wins", "rejected_wins")
    needs_fields = frozenset({"win_probabilities"})

    def __init__(self, *, beta: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps, chosen_wins: Tensor, rejected_wins: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats squared."""
        return sppo_loss(policy, reference, chosen_wins, rejected_wins, 1 / self.beta)
