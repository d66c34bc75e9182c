"""Length-normalised DPO: Lambert et al. 2024, "Tulu 3: Pushing Frontiers in Open Language Model Post-Training".

https://arxiv.org/abs/2411.15124 (equation number not checked), with the normalisation of Meng, Xia and Chen 2024,
"SimPO", https://arxiv.org/abs/2405.14734. DPO with each log-ratio divided by the length of its response: what counts is
how much likelier a token became on average, so that a long response wins no margin by being long.

Differs: TRL 1.16 calls it `sigmoid_norm`. A margin per token is smaller than one per response by the length, so beta is
larger than DPO's by about as much.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.methods.dpo import dpo_loss


class LengthNormalizedDPO(PairwiseModule):
    """DPO with log-ratios per token.

    When: DPO makes answers longer, and a reference is wanted all the same.

    Args:
        beta: KL strength, for log-ratios per token; larger stays closer to the reference.
    """

    rewards_per_token = True

    def __init__(self, *, beta: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return dpo_loss(policy.mean(), reference.mean(), self.beta)
