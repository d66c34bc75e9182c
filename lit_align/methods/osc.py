"""OsC: anonymous authors 2025, "Stable Preference Optimization via Two-sided Contrastive Learning".

https://openreview.net/forum?id=ke1f4IVR47 (equation number not checked). The form in which the paper writes the methods
that it improves on, one-sided contrastive learning: -log sigmoid(beta * (Z - m)), with

- DPO: Z the gap of summed log-probabilities, m the same under the reference;
- CPO: Z the same gap, m = 0;
- R-DPO: Z the same gap, m the reference's gap minus alpha times the difference of lengths;
- SimPO: Z the gap of log-probabilities per token, m = gamma / beta.

Here Z is chosen by `z` and m is a margin of one's own; `log_ratio` takes the reference's gap from Z, so that with
margin 0 it is DPO. Whatever Z is, it grows without end.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import finite, positive
from lit_align.functional.pairwise import logistic


class OneSidedPO(PairwiseModule):
    """One-sided contrastive preference optimisation (OsC).

    When: as the baseline of TwoSidedPO.

    Args:
        beta: steepness.
        margin: what the gap must exceed.
        z: length_normalized: gap of mean log-probabilities per token; sum: of whole responses; log_ratio: of whole
            responses' log-ratios, for which a reference is held as well.
    """

    needs_reference = False

    def __init__(
        self,
        *,
        beta: float = 10.0,
        margin: float = 0.3,
        z: Literal["length_normalized", "sum", "log_ratio"] = "length_normalized",
        **kwargs: Any,
    ) -> None:
        # Of this object, not of the class; the base class reads it while it is built.
        self.__dict__["needs_reference"] = z == "log_ratio"
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.margin = finite("margin", margin)
        self.z = z

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Rewards of chosen and rejected, each [B]: beta times what the gap is of."""
        logps = policy.mean() if self.z == "length_normalized" else policy.logratios(reference)
        return self.beta * logps.chosen, self.beta * logps.rejected

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        chosen, rejected = self.rewards(policy, reference)
        return logistic(chosen - rejected - self.beta * self.margin)
