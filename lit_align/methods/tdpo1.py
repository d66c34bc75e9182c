"""TDPO1: Zeng et al. 2024, "Token-level Direct Preference Optimization".

https://arxiv.org/abs/2404.11999, DPO's Eq. 7 minus a difference of divergences inside the sigmoid: that of the
reference's from the policy's next-token distributions, KL(reference || policy), summed over the rejected response's
tokens, minus the same of the chosen one. It follows from a preference model whose rewards and advantages are of tokens.

Differs: in the authors' code this variant is the default of the configuration, while its README trains TDPO2
(`tdpo2.py`); here they are two methods. Both need the reference's whole distributions: cached sums are not enough.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, PairValues
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic
from lit_align.functional.token_features import ForwardKL, TokenFeature


def tdpo_loss(policy: PairLogps, reference: PairLogps, kl_gap: Tensor, beta: float) -> Tensor:
    """Negative log-likelihood that the chosen response wins, less what the divergences explain.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        kl_gap: [B], how much further the policy is from the reference along the rejected response, nats, with gradient.
        beta: KL strength, > 0, per nat.

    Returns:
        [B] losses, nats; log 2 where policy and reference agree.
    """
    return logistic(beta * (policy.logratios(reference).margins - kl_gap))


class TDPO1(PairwiseModule):
    """Token-level DPO, first variant.

    When: you want the paper's derivation to the letter; otherwise take TDPO2.

    Args:
        beta: KL strength; larger stays closer to the reference.
    """

    def __init__(self, *, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """KL(reference || policy) of the next token."""
        return {"kl": ForwardKL()}

    def losses(self, policy: PairLogps, reference: PairLogps, kl: PairValues) -> Tensor:
        """Losses [B] of the pairs, nats; both divergences carry gradient."""
        return tdpo_loss(policy, reference, kl.rejected - kl.chosen, self.beta)
