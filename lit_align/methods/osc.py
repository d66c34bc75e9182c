"""OsC: anonymous authors 2025, "Stable Preference Optimization via Two-sided Contrastive Learning".

https://openreview.net/forum?id=ke1f4IVR47 (equation number not checked). The form in which the paper writes the methods
that it improves on, one-sided contrastive learning: -log sigmoid(beta * (Z - m)), with

- DPO: Z the gap of summed log-probabilities, m the same under the reference;
- CPO: Z the same gap, m = 0;
- R-DPO: Z the same gap, m the reference's gap minus alpha times the difference of lengths;
- SimPO: Z the gap of log-probabilities per token, m = gamma / beta.

This is the reference-free form with a margin of one's own; Z grows without end.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic


class OneSidedPO(PairwiseModule):
    """One-sided contrastive preference optimisation (OsC).

    When: as the baseline of TwoSidedPO.

    Args:
        beta: steepness.
        margin: what the gap must exceed.
        z: length_normalized: gap of mean log-probabilities per token; sum: of whole responses.
    """

    needs_reference = False

    def __init__(
        self,
        *,
        beta: float = 10.0,
        margin: float = 0.3,
        z: Literal["length_normalized", "sum"] = "length_normalized",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.margin = margin
        self.z = z

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Rewards of chosen and rejected, each [B]: beta times what the gap is of."""
        logps = policy.mean() if self.z == "length_normalized" else policy
        return self.beta * logps.chosen, self.beta * logps.rejected

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        chosen, rejected = self.rewards(policy, reference)
        return logistic(chosen - rejected - self.beta * self.margin)
