"""rDPO: Chowdhury, Kini and Natarajan 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback".

https://arxiv.org/abs/2403.00409, DPO's Eq. 7 made unbiased. Where a share eps of the labels is flipped at random, the
loss of a pair minus a part of the loss of its opposite is in expectation DPO's loss on the labels before the flips.

The loss has no lower bound: it falls by eps / (1 - 2 eps) per unit of margin, for ever, and a pair's gradient never
vanishes. On pairs that are seen again and again margins run away; use few epochs, a small learning rate and gradient
clipping, choose checkpoints by held-out data and not by this loss, and rather under-estimate eps than over-estimate it.

Differs: conservative DPO (`cdpo.py`) adds the second term, which bounds margins but biases them. TRL 1.16 calls eps
`label_smoothing` too, and its default of 0 is plain DPO.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.outputs import PairLogps
from lit_align.functional.pairwise import logistic
from lit_align.methods.dpo import DPO


def robust_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Loss whose expectation over random flips is the logistic loss on true labels.

    Args:
        margins: [B] log-odds that the chosen response wins, nats, with gradient.
        label_smoothing: share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats; below 0 where margins are large.
    """
    kept, flipped = logistic(margins), logistic(-margins)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


class RobustDPO(DPO):
    """Robust DPO.

    When: labels are flipped at random, at a rate that is known.

    Args:
        beta: KL strength; larger stays closer to the reference.
        label_smoothing: share of labels that are flipped, in [0, 0.5); 0 is DPO.
    """

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing, **kwargs)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats, without a lower bound."""
        return robust_loss(self.beta * policy.logratios(reference).margins, self.label_smoothing)
