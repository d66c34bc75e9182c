"""SPO-SimPO: Jian et al. 2025, "Stable Preference Optimization: A Bilevel Approach to Catastrophic Preference Shift".

https://arxiv.org/abs/2507.07723 (equation number not checked). The penalty of `StableDPO` on SimPO, which needs it
most: in the paper's experiments SimPO's reasoning suffers most.

Differs: reconstructed, as `spo_dpo.py` says; with the linear penalty this is SimPO with `nll_weight: rho`, shifted.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods._bilevel import Bilevel
from lit_align.methods.simpo import SimPO


class StableSimPO(Bilevel, SimPO):
    """SimPO among policies that imitate well (SPO).

    When: SimPO suits, but the model loses skills such as reasoning.

    Args:
        rho: weight of the penalty.
        penalty: linear; hinge or squared_hinge, which act only where the target is missed by more than `slack`.
        v_hat: target of the mean negative log-likelihood of the chosen responses, nats per token; initial: that of the
            initial policy on the first 256 training rows.
        slack: by how much the target may be missed, nats per token; not for the linear penalty.
        nll_reduction: token_mean: mean over all chosen tokens; sequence_mean: over responses of their means.
        **kwargs: those of SimPO, but not `nll_weight`, and of every method.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nll_weight=0.0, **kwargs)
