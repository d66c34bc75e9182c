"""LD-DPO: Liu et al. 2024, "Length Desensitization in Direct Preference Optimization".

https://arxiv.org/abs/2409.06411, DPO's Eq. 7 with log-probabilities in which the tail of the longer response counts
less. Up to the length of the shorter response tokens count in full, those beyond with weight alpha, so that a response
is preferred less for being long.

Differs: earlier versions of TRL, and LLaMA-Factory, modify the policy's log-probabilities only (`apply_to_reference:
false`), so that log-ratios are not 0 at the start; TRL 1.16 modifies both, as here. Positions are counted inside the
response. The tail's gradient is alpha times as large; Adam, which divides by the size of gradients, may undo a part of
that. Logged rewards are those of whole responses; TRL logs modified ones.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, up_to_one
from lit_align.methods.dpo import dpo_loss


def desensitized(logps: PairLogps, alpha: float) -> PairLogps:
    """Log-probabilities in which the tail of the longer response counts less.

    Args:
        logps: sums over whole responses and over their first tokens, each [B], nats, with gradient.
        alpha: weight of the tail, in [0, 1].

    Returns:
        The same with `chosen` and `rejected` changed.
    """
    assert logps.chosen_public is not None, "the class asks for it"
    assert logps.rejected_public is not None, "the class asks for it"
    return logps._replace(
        chosen=logps.chosen_public + alpha * (logps.chosen - logps.chosen_public),
        rejected=logps.rejected_public + alpha * (logps.rejected - logps.rejected_public),
    )


class LDDPO(PairwiseModule):
    """Length-desensitized DPO.

    When: DPO makes answers longer, and a price per token is hard to name.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: weight of the tokens beyond the shorter response's length, in [0, 1]; 1 is DPO.
        apply_to_reference: weigh the reference's log-probabilities in the same way.
    """

    needs_public = True

    def __init__(
        self, *, beta: float = 0.1, alpha: float = 0.5, apply_to_reference: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.alpha = up_to_one("alpha", alpha)
        self.apply_to_reference = apply_to_reference

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        if self.apply_to_reference:
            reference = desensitized(reference, self.alpha)
        return dpo_loss(desensitized(policy, self.alpha), reference, self.beta)
