"""IPO: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences".

https://arxiv.org/abs/2310.12036, Eq. 17. The log-ratio gap is regressed onto a finite target, 1 / (2 beta), so certain
preferences do not drive the policy to certainty, as they do in DPO.

Differs: the paper writes log-ratios of whole responses. Its authors confirmed that their results divide each by its
own length, which TRL and HALOs do and which is the default here; the DPO authors' code and OpenRLHF sum
(`length_average: false`). The paper calls beta tau.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive


def ipo_loss(policy: PairLogps, reference: PairLogps, beta: float, length_average: bool = True) -> Tensor:
    """Squared distance of the log-ratio gap from its target.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: regularisation strength, > 0; the target gap is 1 / (2 beta) nats (per token if averaged).
        length_average: divide each response's log-ratio by its own number of tokens.

    Returns:
        [B] losses, nats squared; 1 / (4 beta^2) where policy and reference agree.
    """
    if length_average:
        policy, reference = policy.mean(), reference.mean()
    return (policy.logratios(reference).margins - 1 / (2 * beta)).square()


class IPO(PairwiseModule):
    """Identity Preference Optimization.

    When: preferences are nearly certain, and DPO's margins grow without end.

    Args:
        beta: regularisation strength; smaller asks for a larger gap.
        length_average: divide each log-ratio by its response's length, as in the paper's experiments.
    """

    def __init__(self, *, beta: float = 0.1, length_average: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.length_average = length_average

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats squared."""
        return ipo_loss(policy, reference, self.beta, self.length_average)
