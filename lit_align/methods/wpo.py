"""WPO: Zhou et al. 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization".

https://arxiv.org/abs/2406.11827, Eq. 2 (so TRL's code). Pairs that other models have written are less to the point the
less likely the policy is to write them. DPO's loss of each pair is weighted by how likely the policy finds both
responses, so that the data resemble samples of the policy.

Each token's log-probability is compared with that of two draws agreeing there, the log of the sum of all squared
probabilities, so that a distribution that is flat by nature costs nothing; the mean per token, of both responses, is
the logarithm of the weight. Weights carry no gradient, and losses are not divided by their sum.

Differs: the authors' code bounds a pair's weight by 1 (`clamp`, the default), TRL 1.16 does not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, PairValues
from lit_align.core.ranges import positive
from lit_align.functional.token_features import LogCollision, TokenFeature
from lit_align.methods.dpo import dpo_loss


def pair_weights(policy: PairLogps, log_collision: PairValues, clamp: bool) -> Tensor:
    """How likely the policy is to write both responses, compared with its own samples.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens.
        log_collision: sums over tokens of the log-probability that two draws agree, each [B], nats.
        clamp: bound the weights by 1.

    Returns:
        [B] weights, without gradient.
    """
    mean = policy._replace(
        chosen=policy.chosen - log_collision.chosen, rejected=policy.rejected - log_collision.rejected
    ).mean()
    weights = (mean.chosen + mean.rejected).detach()
    return (weights.clamp(max=0) if clamp else weights).exp()


class WPO(PairwiseModule):
    """Weighted Preference Optimization.

    When: the pairs were written by other models than the one that is trained.

    Args:
        beta: KL strength; larger stays closer to the reference.
        clamp: bound the weight of a pair by 1, as in the authors' code.
    """

    def __init__(self, *, beta: float = 0.01, clamp: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.clamp = clamp

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """Log-probability that two draws of the next token agree."""
        return {"log_collision": LogCollision()}

    def losses(self, policy: PairLogps, reference: PairLogps, log_collision: PairValues) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return pair_weights(policy, log_collision, self.clamp) * dpo_loss(policy, reference, self.beta)
