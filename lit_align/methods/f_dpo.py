"""f-DPO: Wang et al. 2023, "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
Constraints".

https://arxiv.org/abs/2309.16240, DPO's Eq. 7 with f'(u) in place of log u, where u is the probability of a response
under the policy over that under the reference. f belongs to the divergence that holds the policy to its reference;
reverse KL, DPO's, gives up responses, forward KL and the alpha-divergences in between keep more of them.

Differs: TRL 1.16's `f_alpha_divergence_coef` is 1 - alpha, the paper's alpha being used here. In float32 exp(-log u)
overflows for a whole response that became unlikely, so TRL clamps the exponent for alpha-divergences at 80 and the
authors' code nowhere; here it is clamped at 80 for these and for forward KL. Beyond, a response has no gradient.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, share
from lit_align.functional.pairwise import logistic

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
LARGEST_EXPONENT = 80.0


def derivative(logratios: Tensor, divergence: Divergence, alpha: float) -> Tensor:
    """Derivative of a divergence's function f at the ratio of the probabilities, up to a constant.

    Args:
        logratios: [B], log of the ratio, nats, with gradient.
        divergence: see `FDPO`.
        alpha: of the alpha-divergence, in (0, 1); the limit 0 is reverse KL, the limit 1 forward KL.

    Returns:
        [B]; without gradient where -alpha * logratios is above 80.
    """
    if divergence == "reverse_kl":
        return logratios
    if divergence == "js":
        return logsigmoid(logratios)
    order = 1.0 if divergence == "forward_kl" else alpha
    return -(-order * logratios).clamp(max=LARGEST_EXPONENT).expm1() / order


class FDPO(PairwiseModule):
    """DPO under another divergence from the reference.

    When: DPO makes answers less diverse than they should be.

    Args:
        beta: strength of the divergence; forward KL needs a far smaller one where log-ratios are of tens of nats.
        divergence: reverse_kl (DPO), forward_kl, js (Jensen-Shannon) or alpha.
        alpha: of the divergence `alpha`, in (0, 1); larger is closer to forward KL.
    """

    def __init__(self, *, beta: float = 0.1, divergence: Divergence = "js", alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.divergence: Divergence = divergence
        self.alpha = positive("alpha", share("alpha", alpha))

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        ratios = policy.logratios(reference)
        chosen, rejected = (derivative(side, self.divergence, self.alpha) for side in (ratios.chosen, ratios.rejected))
        return logistic(self.beta * (chosen - rejected))
