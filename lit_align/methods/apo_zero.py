"""APO-zero: D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions: Addressing
Underspecification in Alignment".

https://arxiv.org/abs/2408.06266, Eq. 7 (so TRL's code). DPO fixes only the difference between the responses: both may
become less likely. Anchored preference optimization (APO) says for each response by itself where it should go,
measured from the reference: here the chosen one up, the rejected one down.

Differs: the paper leaves out the constant 1 of the first term; with it, as in TRL 1.16, the loss lies between 0 and 2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive


def apo_zero_loss(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    """How far the chosen response is from being likelier, and the rejected one from being less likely, than before.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: scale of the log-ratios, > 0, per nat.

    Returns:
        [B] losses in (0, 2); 1 where policy and reference agree. Gradients vanish at both ends.
    """
    ratios = policy.logratios(reference)
    return (-beta * ratios.chosen).sigmoid() + (beta * ratios.rejected).sigmoid()


class APOZero(PairwiseModule):
    """Anchored Preference Optimization, zero.

    When: chosen responses are better than what the model writes: make them likelier, rejected ones less likely.

    Args:
        beta: scale of the implicit rewards; larger stays closer to the reference.
    """

    def __init__(self, *, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs."""
        return apo_zero_loss(policy, reference, self.beta)
