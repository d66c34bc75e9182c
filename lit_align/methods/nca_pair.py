"""NCA on pairs: Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards".

https://arxiv.org/abs/2402.05369. A response is to be told from noise, responses of the reference, by its implicit
reward: chosen ones should look real, and all a little like noise. Its sister InfoNCA compares responses with each
other and is, on pairs, DPO's Eq. 7; NCA holds on to each response's own likelihood, so that chosen ones do not lose it.

Differs: this is the pair form, with all of the mass on the chosen response, as TRL 1.16 has it; `nca.py` learns from
lists and scores.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic


def nca_pair_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Loss of telling the chosen response from noise, and of both responses being noise.

    Args:
        chosen: [B] rewards of the chosen responses, nats, with gradient.
        rejected: [B] of the rejected ones.

    Returns:
        [B] losses, nats; 2 log 2 where rewards are 0. For the chosen reward alone the minimum lies at log 2.
    """
    return logistic(chosen) + (logistic(-chosen) + logistic(-rejected)) / 2


class NCAPair(PairwiseModule):
    """Noise Contrastive Alignment on pairs.

    When: chosen responses must stay likely, as in reasoning, where DPO makes them less so.

    Args:
        beta: scale of the implicit rewards; larger stays closer to the reference.
    """

    def __init__(self, *, beta: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return nca_pair_loss(*self.rewards(policy, reference))
