"""Cal-DPO: Xiao et al. 2024, "Cal-DPO: Calibrated Direct Preference Optimization for Language Model Alignment".

https://arxiv.org/abs/2412.14516 (equation number not checked). Besides winning, the chosen response's reward must reach
+1/2 and the rejected one's -1/2: two squared errors pin the absolute rewards down, so the chosen response cannot sink
together with the rejected one.

Differs: the term in which the responses compete has no beta, here as in the authors' code; beta is in the targets only,
log-ratios of 1/(2 beta) and -1/(2 beta) nats. The paper gives the squared errors weight 1, the code 0.5
(`calibration_weight`, the default here). The code's beta of 0.001 to 0.002 asks for log-ratios of 250 to 500 nats.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic, squared_errors


def cal_dpo_loss(policy: PairLogps, reference: PairLogps, beta: float, calibration_weight: float) -> Tensor:
    """Logistic loss of the log-ratio gap, and squared errors of both log-ratios.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: scale of the rewards, > 0, per nat.
        calibration_weight: weight of the squared errors, >= 0.

    Returns:
        [B] losses.
    """
    ratios = policy.logratios(reference)
    errors = squared_errors(ratios.chosen, ratios.rejected, 1 / (2 * beta))
    return logistic(ratios.margins) + calibration_weight * errors


class CalDPO(PairwiseModule):
    """Calibrated DPO.

    When: the rewards' absolute values matter, or DPO makes chosen responses less likely.

    Args:
        beta: scale of the rewards; the log-ratios' targets are plus and minus 1 / (2 beta) nats.
        calibration_weight: weight of the squared distances from the targets.
    """

    def __init__(self, *, beta: float = 0.002, calibration_weight: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.calibration_weight = not_negative("calibration_weight", calibration_weight)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs."""
        return cal_dpo_loss(policy, reference, self.beta, self.calibration_weight)
