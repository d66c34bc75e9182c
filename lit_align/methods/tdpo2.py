"""TDPO2: Zeng et al. 2024, "Token-level Direct Preference Optimization".

https://arxiv.org/abs/2404.11999, DPO's Eq. 7 minus alpha times a difference of divergences inside the sigmoid:
KL(reference || policy) summed over the rejected response's tokens, minus the same of the chosen one. Unlike in TDPO1
the chosen response's divergence passes no gradient, so that the policy may move away from the reference along chosen
responses, and alpha says how much the rest counts.

Differs: the authors' code trains TDPO1 (`tdpo1.py`) unless `if_tdpo2` is set. Both need the reference's whole
distributions: cached sums are not enough.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.outputs import PairLogps, PairValues
from lit_align.core.ranges import not_negative
from lit_align.methods.tdpo1 import TDPO1, tdpo_loss


class TDPO2(TDPO1):
    """Token-level DPO.

    When: DPO moves too far from the reference, above all along rejected responses.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: weight of the divergences; 0 is DPO.
    """

    def __init__(self, *, beta: float = 0.1, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(beta=beta, **kwargs)
        self.alpha = not_negative("alpha", alpha)

    def losses(self, policy: PairLogps, reference: PairLogps, kl: PairValues) -> Tensor:
        """Losses [B] of the pairs, nats; the rejected responses' divergence alone carries gradient."""
        return tdpo_loss(policy, reference, self.alpha * (kl.rejected - kl.chosen.detach()), self.beta)
