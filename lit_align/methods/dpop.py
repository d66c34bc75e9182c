"""DPO-Positive: Pal et al. 2024, "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive".

https://arxiv.org/abs/2402.13228 (equation number not checked). DPO may lower the chosen response's probability as long
as the rejected one's falls faster, above all where the two differ in few tokens. DPOP takes a penalty from the log-odds
as soon as the chosen response is less likely than under the reference; inside the sigmoid and times beta, so that a
pair is not solved before the penalty is gone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


def dpop_loss(policy: PairLogps, reference: PairLogps, beta: float, penalty: float) -> Tensor:
    """DPO's loss with the fall of the chosen response taken from the margin.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: KL strength, > 0, per nat.
        penalty: nats of margin per nat that the chosen response has lost, >= 0; 0 is DPO.

    Returns:
        [B] losses, nats; those of DPO where the chosen response is at least as likely as under the reference.
    """
    ratios = policy.logratios(reference)
    return logistic(beta * (ratios.margins - penalty * (-ratios.chosen).clamp(min=0)))


class DPOPositive(PairwiseModule):
    """DPO-Positive (DPOP, Smaug).

    When: chosen and rejected responses differ little, and DPO makes both less likely.

    Args:
        beta: KL strength; larger stays closer to the reference.
        penalty: nats of margin per nat of the chosen response's fall below the reference; the paper's lambda.
    """

    def __init__(self, *, beta: float = 0.3, penalty: float = 50.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.penalty = not_negative("penalty", penalty)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return dpop_loss(policy, reference, self.beta, self.penalty)
