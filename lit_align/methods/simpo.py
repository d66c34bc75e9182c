"""SimPO: Meng, Xia and Chen 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward".

https://arxiv.org/abs/2405.14734, Eq. 6. The reward is the policy's own mean log-probability per token, times beta; the
chosen response must win by a margin gamma. No reference model.

Differs: "gamma" has two meanings. Here, as in the paper, the loss is -log sigmoid(beta * (mean difference) - gamma);
the authors' code takes `gamma_beta_ratio` = gamma / beta, which is accepted instead. TRL's SimPO adds an NLL term by
default (`cpo_alpha: 1`); here `nll_weight` is 0. `logps/*` are sums, as for DPO; TRL logs means per token here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import Losses, PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import not_negative, positive, share
from lit_align.functional.pairwise import logistic


def simpo_loss(policy: PairLogps, beta: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen response's length-normalised reward wins by gamma.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.
        beta: scale of the reward, > 0.
        gamma: target margin, >= 0.
        label_smoothing: believed share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats.
    """
    mean = policy.mean()
    return logistic(beta * (mean.chosen - mean.rejected) - gamma, label_smoothing)


class SimPO(PairwiseModule):
    """Simple Preference Optimization.

    When: memory for a reference is short, or answers should not grow longer.

    Args:
        beta: scale of the per-token reward; the paper uses 2 to 10.
        gamma: target margin; None for `gamma_beta_ratio` times beta.
        gamma_beta_ratio: the same in units of beta, as the authors' code has it; 0.5 where neither is given.
        label_smoothing: share of labels believed flipped.
        nll_weight: weight of the chosen responses' mean negative log-likelihood per token (0 in the paper).
    """

    needs_reference = False
    rewards_per_token = True

    def __init__(
        self,
        *,
        beta: float = 2.0,
        gamma: float | None = None,
        gamma_beta_ratio: float | None = None,
        label_smoothing: float = 0.0,
        nll_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if gamma is not None and gamma_beta_ratio is not None:
            raise ConfigError(
                "SimPO's margin is given twice",
                got=f"gamma: {gamma} and gamma_beta_ratio: {gamma_beta_ratio}",
                fix="give one of them; gamma = beta * gamma_beta_ratio",
            )
        self.beta = positive("beta", beta)
        ratio = 0.5 if gamma_beta_ratio is None else gamma_beta_ratio
        self.gamma = not_negative("gamma", beta * ratio if gamma is None else gamma)
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)
        self.nll_weight = not_negative("nll_weight", nll_weight)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Losses:
        """Losses [B] of the pairs, nats."""
        preference = self.preference(policy)
        if not self.nll_weight:
            return preference
        return {"preference": Term(preference), "nll": Term(-self.nll_weight * policy.chosen, Per.TOKENS)}

    def preference(self, policy: PairLogps) -> Tensor:
        """Negative log-likelihood [B], nats, that the chosen response wins by gamma."""
        return simpo_loss(policy, self.beta, self.gamma, self.label_smoothing)
