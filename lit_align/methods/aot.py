"""AOT: Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal Transport".

https://arxiv.org/abs/2406.05882, Algorithm 1 for pairs. DPO's Eq. 7 compares each pair's margin under the policy with
the margin of the same pair under the reference. Here the margins of a batch are sorted, on both sides, and those at
the same place are compared: the policy's margins as a whole are to be larger than the reference's.

The loss couples the examples of a micro-batch, of all ranks: larger batches estimate the distributions better, and
accumulating micro-batches does not replace them.
Each example is given the loss of the place at which its margin stands.

Differs: TRL 1.16 sorts within each process; here all ranks' margins are sorted together. In TRL before about 0.28 the
name `aot` meant the unpaired form (`aot_unpaired.py`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, share
from lit_align.functional.pairwise import logistic, same_place


def aot_loss(
    policy: Tensor, everyone: tuple[Tensor, Tensor], own: slice, beta: float, label_smoothing: float
) -> Tensor:
    """Negative log-likelihood that the policy's margins are above the reference's of the same rank.

    Args:
        policy: [B] margins of this rank's pairs under the policy, nats, with gradient.
        everyone: [N] margins of all ranks' pairs under policy and reference, without gradient.
        own: which of the N are this rank's.
        beta: scale of the margins, > 0, per nat.
        label_smoothing: believed share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats; log 2 where policy and reference agree.
    """
    return logistic(beta * (policy - same_place(*everyone)[own]), label_smoothing)


class AOT(PairwiseModule):
    """Alignment via Optimal Transport, paired.

    When: batches are large, and rewards should improve as a distribution, not pair by pair.

    Args:
        beta: scale of the margins; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
    """

    def __init__(self, *, beta: float = 0.01, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats; all ranks call this together."""
        policies, own = over_ranks(policy.margins)
        references, _ = over_ranks(reference.margins)
        return aot_loss(policy.margins, (policies, references), own, self.beta, self.label_smoothing)
