"""beta-DPO: Wu et al. 2024, "beta-DPO: Direct Preference Optimization with Dynamic beta".

https://arxiv.org/abs/2407.08639 (equation number not checked). The best beta depends on the pairs: where gaps are wide,
the policy should stay closer to its reference. Each batch has a beta of its own, which follows how far its mean gap
lies above the running mean; and pairs whose gap is unusual, which may be outliers, are likely to be left out.

Differs: pairs are drawn without replacement from the micro-batches of all ranks together, by the largest keys of
log-weight plus Gumbel noise, those that rank 0 draws. Evaluation leaves nothing out and changes no average. Under
accumulation each micro-batch has its own beta. Rewards are logged with the base beta, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.metrics import over_ranks
from lit_align.core.moments import ExponentialMoments
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive, share
from lit_align.functional.pairwise import logistic
from lit_align.functional.selection import number_kept

_LEAST_BETA = 1e-3


def dynamic_beta(kept: Tensor, mean: Tensor, beta: float, sensitivity: float) -> Tensor:
    """The beta of a batch; scalar, without gradient.

    Args:
        kept: [K] gaps of log-ratios that are learnt from, nats.
        mean: scalar, the running mean of gaps.
        beta: where the gaps are as always.
        sensitivity: relative change of beta per nat.
    """
    return (beta * (1 + sensitivity * (kept.detach().mean() - mean))).clamp(min=_LEAST_BETA)


def gumbel_keys(log_weights: Tensor) -> Tensor:
    """Keys [B] whose largest K are a draw of K without replacement, in proportion to the weights."""
    noise = torch.empty_like(log_weights).exponential_().clamp(min=torch.finfo(log_weights.dtype).tiny)
    return log_weights - noise.log()


class BetaDPO(PairwiseModule):
    """DPO with a beta for each batch, and outliers left out (beta-DPO).

    When: pairs are of mixed quality, and no single beta suits them all.

    Args:
        beta: KL strength of a batch whose gaps are as always.
        sensitivity: relative change of beta per nat of the batch's mean gap; the paper's alpha.
        filter_rate: share of the pairs that is left out, drawn by how unusual their gaps are; 0 keeps all.
        decay: of the running mean and standard deviation of gaps.
    """

    def __init__(
        self,
        *,
        beta: float = 0.1,
        sensitivity: float = 0.6,
        filter_rate: float = 0.2,
        decay: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.sensitivity = not_negative("sensitivity", sensitivity)
        self.filter_rate = share("filter_rate", filter_rate)
        self.moments = ExponentialMoments(share("decay", decay))

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats; 0 for those that are left out, the others weighted up. Records the beta."""
        gaps = policy.logratios(reference).margins
        moments = self.moments(gaps)
        everyone, own = over_ranks(gaps.double())
        weights = torch.ones_like(everyone)
        if self.training and self.filter_rate:
            keys = gumbel_keys(-moments.standardised(everyone).square() / 2)
            # Ranks are seeded alike, so noise that each drew for its own pairs would be the same noise again.
            keys = over_ranks(keys)[0][: len(everyone)]
            kept = keys.topk(number_kept(len(keys), self.filter_rate)).indices
            weights = torch.zeros_like(keys).index_fill(0, kept, len(keys) / len(kept))
        beta = dynamic_beta(everyone[weights > 0], moments.mean, self.beta, self.sensitivity)
        self.meter.add("beta_dpo/beta", beta)
        return weights[own] * logistic(beta * gaps)
