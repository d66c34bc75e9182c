"""R-DPO: Park et al. 2024, "Disentangling Length from Quality in Direct Preference Optimization".

https://arxiv.org/abs/2403.19159, DPO's Eq. 7 with alpha times the difference in length inside the sigmoid, which
follows from a reward that loses alpha per token. A chosen response that is longer has won in part by its length, so the
policy is pushed less towards it.

Differs: nothing between paper and other codes; TRL 1.16 has no such option. The sign is plus: chosen length minus
rejected length is added. Not the variants that divide by length, and not LD-DPO (`ld_dpo.py`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


def length_regularized_loss(policy: PairLogps, reference: PairLogps, beta: float, alpha: float) -> Tensor:
    """Negative log-likelihood that the chosen response wins, if length counts as well.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.
        reference: the same under the reference, without gradient.
        beta: KL strength, > 0, per nat.
        alpha: what a token of length is worth, >= 0.

    Returns:
        [B] losses, nats; log 2 where policy and reference agree and lengths are equal.
    """
    margins = policy.logratios(reference).margins
    longer = (policy.chosen_lengths - policy.rejected_lengths).to(margins)
    return logistic(beta * margins + alpha * longer)


class LengthRegularizedDPO(PairwiseModule):
    """DPO that discounts length.

    When: DPO makes answers longer, and you want to say how much a token is worth.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: discount per token; 0 is DPO. It competes with beta times a log-ratio: 50 tokens at 0.1 are worth 5.
    """

    def __init__(self, *, beta: float = 0.1, alpha: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.alpha = not_negative("alpha", alpha)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return length_regularized_loss(policy, reference, self.beta, self.alpha)
