"""Reward ensemble: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization".

https://arxiv.org/abs/2310.02743 (equation number not checked). Several reward models that differ in their seeds agree
where the data taught them something, and disagree where a policy has found a gap. A score that counts disagreement
against a response (the worst member, or the mean less the variance) is harder to exploit than any single one.

Here the members are linear heads on one trunk, each of its own initial weights and, as in a bootstrap, its own sample
of the pairs: an ensemble for the price of one model. A judge, RewardEnsemble, combines models that were trained apart.

Differs: the paper trains members apart, which disagree more than heads on one trunk do, and standardises their scores
on common data; that is left to the judge. Its code takes the population's variance with weight 0.5 for best-of-n, as is
the default here, and the sample's (`ddof: 1`) with weight 0.1 for PPO. `lcb` subtracts the standard deviation instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import PairwiseRewardModule
from lit_align.core.ranges import not_negative
from lit_align.functional.ensembles import Combination, combined
from lit_align.functional.rewards import bootstrap_counts
from lit_align.methods.bradley_terry import bradley_terry_loss


class EnsembleReward(PairwiseRewardModule):
    """Reward model that knows what it does not know.

    When: the reward will be optimised hard, by best-of-n or reinforcement learning.

    Args:
        members: number of heads.
        bootstrap: each head learns from its own sample of the rows, drawn with replacement; False: from all of them.
            Held-out rows count once for every head.
        bootstrap_seed: of the drawing; a row's draws do not change from epoch to epoch.
        combine: what the heads' scores come to: mean, worst, uncertainty (mean less variance) or lcb (mean less
            standard deviation).
        uncertainty_weight: of variance or standard deviation.
        ddof: 0: variance of the population of heads; 1: of a sample.
        learning_rate: peak learning rate.
    """

    reads = ("source_rows",)

    def __init__(
        self,
        *,
        members: int = 5,
        bootstrap: bool = True,
        bootstrap_seed: int = 0,
        combine: Combination = "uncertainty",
        uncertainty_weight: float = 0.5,
        ddof: int = 0,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if members < 2:
            raise ConfigError("an ensemble has members", got=f"members: {members}", fix="give 2 or more")
        if ddof not in (0, 1):
            raise ConfigError("unknown kind of variance", got=f"ddof: {ddof}", fix="give 0 or 1")
        self.members, self.bootstrap, self.bootstrap_seed = members, bootstrap, bootstrap_seed
        self.combine, self.ddof = combine, ddof
        self.uncertainty_weight = not_negative("uncertainty_weight", uncertainty_weight)

    @property
    def num_outputs(self) -> int:
        """One for each member."""
        return self.members

    @property
    def output_names(self) -> tuple[str, ...]:
        """The members' numbers."""
        return tuple(f"member_{number}" for number in range(self.members))

    def response_scores(self, outputs: Tensor) -> Tensor:
        """The combined scores [M] of the members' [M, K]."""
        return combined(outputs.T, self.combine, self.uncertainty_weight, self.ddof)

    def losses(self, chosen: Tensor, rejected: Tensor, source_rows: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats: the mean over members, in training times how often each has drawn the row."""
        with torch.no_grad():
            self.meter.add("disagreement", torch.cat([chosen, rejected]).std(1, correction=self.ddof))
        values = bradley_terry_loss(chosen, rejected)
        if self.bootstrap and self.training:
            values = values * bootstrap_counts(source_rows, self.members, self.bootstrap_seed)
        return values.mean(1)
