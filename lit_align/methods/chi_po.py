"""chiPO: Huang et al. 2024, "Correcting the Mythos of KL-Regularization: Direct Alignment without Overoptimization via
Chi-Squared Preference Optimization".

https://arxiv.org/abs/2407.13399, Algorithm 1: DPO's Eq. 7 with z + log z in place of log z, z being the probability of
a response under the policy over that under the reference. It adds a chi-squared divergence to the KL divergence, which
punishes responses that the reference hardly covers far more, and with them over-optimisation.

Differs: z of a whole response overflows easily. Log-ratios enter the exponential at most as 20; beyond, that part has
no gradient. The margin is clipped as in the paper, where R bounds the rewards; a clipped pair has no gradient. There is
no code by the authors.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic

LARGEST_EXPONENT = 20.0


def link(logratios: Tensor, gamma: float) -> Tensor:
    """Ratio of probabilities z, plus gamma times its logarithm.

    Args:
        logratios: [B], log z, nats, with gradient.
        gamma: weight of the KL divergence against the chi-squared one.

    Returns:
        [B].
    """
    return logratios.clamp(max=LARGEST_EXPONENT).exp() + gamma * logratios


class ChiPO(PairwiseModule):
    """Chi-squared Preference Optimization.

    When: DPO over-optimises: training goes on long, or the data cover few of the responses that matter.

    Args:
        beta: strength of both divergences.
        gamma: weight of the KL divergence against the chi-squared one; 1 is the paper's.
        r_max: bound of the rewards: margins are clipped at twice this; None does not clip.
    """

    def __init__(self, *, beta: float = 0.05, gamma: float = 1.0, r_max: float | None = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.gamma = not_negative("gamma", gamma)
        self.r_max = None if r_max is None else positive("r_max", r_max)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        ratios = policy.logratios(reference)
        margins = self.beta * (link(ratios.chosen, self.gamma) - link(ratios.rejected, self.gamma))
        if self.r_max is not None:
            margins = margins.clamp(-2 * self.r_max, 2 * self.r_max)
        return logistic(margins)
