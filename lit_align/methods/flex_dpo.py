"""Flex-DPO: Yan et al. 2024, "3D-Properties: Identifying Challenges in DPO and Charting a Path Forward".

https://arxiv.org/abs/2406.07327 (equation number not checked). DPO pushes the rejected response down much harder than
it pulls the chosen one up once the rejected one is unlikely. Here each side has a beta of its own, and a smaller one
for the rejected side slows its fall.

The paper's second remedy, SFT-DPO, adds the chosen response's negative log-likelihood, summed over its tokens
(`sft_weight`, the paper's gamma, of which it gives no value). With equal betas that is `RegularizedPO` with eta =
sft_weight / beta.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


class FlexDPO(PairwiseModule):
    """DPO with a beta for each side (Flex-DPO, SFT-DPO).

    When: rejected responses become far less likely than they need, and drag chosen ones along.

    Args:
        beta_plus: scale of the chosen response's reward.
        beta_minus: scale of the rejected response's reward; equal to `beta_plus` it is DPO, far below it SFT.
        sft_weight: weight of the chosen response's negative log-likelihood, summed over its tokens; 0 leaves it out.
    """

    def __init__(
        self, *, beta_plus: float = 0.1, beta_minus: float = 0.08, sft_weight: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta_plus = positive("beta_plus", beta_plus)
        self.beta_minus = not_negative("beta_minus", beta_minus)
        self.sft_weight = not_negative("sft_weight", sft_weight)

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Implicit rewards of chosen and rejected, each [B]: each side's beta times its log-ratio."""
        ratios = policy.logratios(reference)
        return self.beta_plus * ratios.chosen, self.beta_minus * ratios.rejected

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        chosen, rejected = self.rewards(policy, reference)
        return logistic(chosen - rejected) - self.sft_weight * policy.chosen
