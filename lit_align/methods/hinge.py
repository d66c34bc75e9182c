"""Hinge DPO: Liu et al. 2023, "Statistical Rejection Sampling Improves Preference Optimization".

https://arxiv.org/abs/2309.06657, the loss named hinge-norm: a hinge on the log-odds of DPO's Eq. 7. A pair that is won
by 1 / beta nats or more has no gradient, so gaps stop growing there.

RSO, that paper's method, is a way to make pairs and a choice of loss. The pairs come from
`data.convert: rejection_sampled`; the loss with the paper's gamma is this class (hinge-norm) or `DPO` (sigmoid-norm)
with `beta: gamma`, 0.05 in the paper; its third loss, a hinge without a reference, is gamma times
`SLiCHF` with `delta: 1 / gamma` and `reg_weight: 0`. The sampler's beta is another number, 0.5 in the paper.

Differs: not SLiC-HF (`slic_hf.py`), which has no reference and adds a cross entropy. TRL 1.16's `hinge` is this loss.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive


def hinge_loss(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    """How far a pair is from being won by a margin of 1 / beta nats.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: scale of the log-ratios, > 0, per nat.

    Returns:
        [B] losses >= 0, without gradient where 0; 1 where policy and reference agree.
    """
    return (1 - beta * policy.logratios(reference).margins).relu()


class HingeDPO(PairwiseModule):
    """DPO with a hinge loss, which is also RSO's.

    When: pairs that are won clearly should stop pulling.

    Args:
        beta: reciprocal of the margin in nats that a pair must be won by; RSO calls it gamma and uses 0.05.
    """

    def __init__(self, *, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs."""
        return hinge_loss(policy, reference, self.beta)
