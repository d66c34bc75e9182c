"""DiscoPOP: Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large Language Models".

https://arxiv.org/abs/2406.08414, Eq. 5 (so TRL's code names it). A loss that a language model wrote and that trained
well: the logistic loss for pairs whose margin is negative, the exponential one for those whose margin is positive,
mixed by a sigmoid of the margin. It is not convex: with tau 0.05 it rises between margins of -0.119 and 0.072, so a
pair that no step carries over this hill settles below 0, as if its label were doubted.

Differs: TRL 1.16 calls `tau` `discopop_tau`. There and here alike the sigmoid sees beta times the log-ratio gap.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic


def modulated_loss(margins: Tensor, tau: float) -> Tensor:
    """Logistic loss below a margin of 0, exponential loss above it.

    Args:
        margins: [B] differences of the implicit rewards, with gradient.
        tau: width of the transition, > 0; below 1 the loss is finite for any margin.

    Returns:
        [B] losses.
    """
    above = margins / tau
    # Weight and exponential in one exponent: alone, the exponential overflows where the weight is 0.
    return (-above).sigmoid() * logistic(margins) + (logsigmoid(above) - margins).exp()


class DiscoPOP(PairwiseModule):
    """Discovered Preference Optimization, the log-ratio modulated loss (LRML).

    When: DPO is to be compared with a loss that was found by search; without the noise of small batches it may fail.

    Args:
        beta: KL strength; larger stays closer to the reference.
        tau: width of the transition between the two losses, in units of the rewards.
    """

    def __init__(self, *, beta: float = 0.05, tau: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.tau = positive("tau", tau)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs."""
        return modulated_loss(self.beta * policy.logratios(reference).margins, self.tau)
