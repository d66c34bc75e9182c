"""StaPO: anonymous authors 2025, "Stable Preference Optimization via Two-sided Contrastive Learning".

https://openreview.net/forum?id=ke1f4IVR47 (equation number not checked). The gap Z between chosen and rejected must
exceed a left margin and stay below a right one: -log sigmoid(beta * (Z - left)) - log sigmoid(beta * (right - Z)),
least halfway between the two. So preferences are learnt, and the policy does not drift further and further into
nonsense. Above the right margin the chosen response is pushed down on purpose; watch `stapo/inside`, not the reward
margin.

Differs: the paper's reviewers report a fixed distance of the margins, 0.2, and that it leaves open what Z is; 0.2 makes
sense per token, which is the default.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.outputs import PairLogps
from lit_align.functional.pairwise import logistic
from lit_align.methods.osc import OneSidedPO


class TwoSidedPO(OneSidedPO):
    """Two-sided contrastive preference optimisation (StaPO).

    When: training goes on for several epochs, and other methods' texts degrade.

    Args:
        beta: steepness at both margins.
        left: what the gap must exceed.
        right: what the gap must stay below.
        **kwargs: those of OneSidedPO, such as `z`, but `margin`.
    """

    def __init__(self, *, beta: float = 10.0, left: float = 0.3, right: float = 0.5, **kwargs: Any) -> None:
        super().__init__(beta=beta, margin=left, **kwargs)
        if not left < right:
            raise ConfigError(
                "the margins leave no room between them",
                got=f"left: {left} and right: {right}",
                fix="give a right margin above the left one",
            )
        self.left, self.right = left, right

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats; records the gap Z, and the share of pairs that have it between the margins."""
        chosen, rejected = self.rewards(policy, reference)
        gaps = (chosen - rejected) / self.beta
        self.meter.add("stapo/gap", gaps)
        self.meter.add("stapo/inside", ((gaps > self.left) & (gaps < self.right)).double())
        return super().losses(policy, reference) + logistic(self.beta * (self.right - gaps))
