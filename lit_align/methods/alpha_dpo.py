"""alpha-DPO: Wu et al. 2024, "AlphaDPO: Adaptive Reward Margin for Direct Preference Optimization".

https://arxiv.org/abs/2410.10148 (equation number not checked). SimPO with a margin of each pair's own: it grows with
how far the policy already prefers the chosen response more than the reference does, measured per token and against the
running mean and spread of that gap. The margin passes no gradient.

Differs: the paper adds alpha times the standardised gap to gamma; the authors' code, and this one, multiply both by
beta. Averages over batches have decay 0.9, start at 0 and take in each micro-batch of all ranks before they are used,
as in the code; evaluation leaves them as they are. So a pair's margin depends on its micro-batch, also under
accumulation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.moments import ExponentialMoments, Moments
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive, share
from lit_align.functional.pairwise import logistic


def alpha_dpo_loss(
    policy: PairLogps, reference: PairLogps, moments: Moments, beta: float, gamma_beta_ratio: float, alpha: float
) -> Tensor:
    """Negative log-likelihood that the chosen response's length-normalised reward wins by the pair's margin.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.
        reference: the same under the reference, without gradient.
        moments: of the gaps of log-ratios per token.
        beta: scale of the reward, > 0.
        gamma_beta_ratio: margin of an average pair, in units of beta.
        alpha: how much the margin varies.

    Returns:
        [B] losses, nats; the margin passes no gradient.
    """
    gaps = policy.mean().logratios(reference.mean()).margins
    margin = gamma_beta_ratio + alpha * moments.standardised(gaps)
    return logistic(beta * (policy.mean().margins - margin))


class AlphaDPO(PairwiseModule):
    """SimPO with margins that adapt to each pair (alpha-DPO).

    When: SimPO suits, and some pairs deserve a larger margin than others.

    Args:
        beta: scale of the per-token reward.
        gamma_beta_ratio: margin of an average pair, in units of beta.
        alpha: how much the margin varies with the standardised gap; 0 is SimPO.
        decay: of the running mean and standard deviation.
    """

    rewards_per_token = True

    def __init__(
        self,
        *,
        beta: float = 2.5,
        gamma_beta_ratio: float = 0.6,
        alpha: float = 0.2,
        decay: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.gamma_beta_ratio = not_negative("gamma_beta_ratio", gamma_beta_ratio)
        self.alpha = not_negative("alpha", alpha)
        self.moments = ExponentialMoments(share("decay", decay))

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        moments = self.moments(policy.mean().logratios(reference.mean()).margins)
        return alpha_dpo_loss(policy, reference, moments, self.beta, self.gamma_beta_ratio, self.alpha)
