"""Regression: Wang et al. 2023, "HelpSteer: Multi-attribute Helpfulness Dataset for SteerLM".

https://arxiv.org/abs/2311.09528 (equation number not checked); Wang et al. 2024, https://arxiv.org/abs/2406.08673. A
head with a number for each attribute that people have rated, such as helpfulness and verbosity, trained by squared
error. A weighted sum makes one score of them, and the weights can be chosen after training.

Differs: ratings that are missing count neither in the sum of errors nor in its divisor. The preset of weights is that
of NVIDIA's Llama3-70B-SteerLM-RM (its model card). Targets that are z-scores are common where attributes differ in
spread; `standardise` divides each attribute's errors by the standard deviation of its ratings, which balances them in
the same way, but leaves the predictions in the data's own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lit_align.core.batch import RatedBatch
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import RatedRewardModule
from lit_align.core.outputs import Term
from lit_align.core.ranges import finite
from lit_align.core.running import RunningMean

HELPSTEER2 = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}
"""Weights of the attributes in one score."""


class RegressionReward(RatedRewardModule):
    """Reward model from ratings of attributes.

    When: responses have ratings of several qualities, and you want to see and weigh them.

    Args:
        attributes: what is rated, as the data name it.
        weights: of the attributes in the one score of a response: numbers by name (those that are not named count
            nothing), `helpsteer2`, or `mean`.
        standardise: divide errors by the standard deviation that the attribute's ratings have had so far, of all
            ranks; it is part of checkpoints. It moves from one micro-batch to the next.
        learning_rate: peak learning rate.
    """

    def __init__(
        self,
        *,
        attributes: Sequence[str] = tuple(HELPSTEER2),
        weights: Literal["helpsteer2", "mean"] | dict[str, float] = "helpsteer2",
        standardise: bool = False,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rating_names = tuple(attributes)
        if not self.rating_names or len({*self.rating_names}) < len(self.rating_names):
            raise ConfigError(
                "attributes have no names of their own", got=f"attributes: {list(attributes)}", fix="name each once"
            )
        self.weights = self._by_name(weights)
        self.standardise = standardise
        count = len(self.rating_names) if standardise else 0
        self.means = nn.ModuleList(RunningMean() for _ in range(count))
        self.squares = nn.ModuleList(RunningMean() for _ in range(count))

    def _by_name(self, weights: str | dict[str, float]) -> list[float]:
        if weights == "mean":
            return [1 / len(self.rating_names)] * len(self.rating_names)
        named = HELPSTEER2 if isinstance(weights, str) else weights
        unknown = sorted({*named} - {*self.rating_names})
        if unknown or not any(named.values()):
            raise ConfigError(
                "the weights are not those of the attributes",
                got=f"weights of {', '.join(unknown)}" if unknown else f"weights: {weights}",
                fix=f"give numbers for some of {', '.join(self.rating_names)}, or weights: mean",
            )
        return [finite(f"weights.{name}", named.get(name, 0.0)) for name in self.rating_names]

    def response_scores(self, outputs: Tensor) -> Tensor:
        """The weighted sums [M] of the predicted ratings [M, A]."""
        return outputs @ outputs.new_tensor(self.weights)

    def terms(self, batch: RatedBatch) -> dict[str, Term]:
        """Losses of the batch's completions; in training the standard deviations take in their ratings first."""
        if self.standardise and self.training:
            for ratings, mean, square in zip(batch.ratings.T, self.means, self.squares, strict=True):
                known = ratings[~ratings.isnan()]
                cast(RunningMean, mean).update(known)
                cast(RunningMean, square).update(known.square())
        return super().terms(batch)

    def losses(self, predicted: Tensor, ratings: Tensor) -> Tensor:
        """Squared errors [B, A] of the predicted ratings."""
        errors = (predicted - ratings).square()
        return errors / self._variances() if self.standardise else errors

    def _variances(self) -> Tensor:
        """[A] of the ratings so far; 1 where they have not differed yet."""
        mean, square = (
            torch.stack([cast(RunningMean, statistic).mean for statistic in statistics])
            for statistics in (self.means, self.squares)
        )
        variance = square - mean.square()
        return torch.where(variance > 1e-8, variance, 1.0)
