"""Methods that train a head to score responses, from labels, ratings, steps or comparisons."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_align.core.batch import ComparisonBatch, DataKind, LabelBatch, RatedBatch, Rows, StepBatch
from lit_align.core.demand import StepLabelling
from lit_align.core.errors import ConfigError
from lit_align.core.kinds.language import Losses, as_terms
from lit_align.core.kinds.reward import RewardModule
from lit_align.core.outputs import Per, Term
from lit_align.core.policy import COMPARISON
from lit_align.functional.logprobs import segment_sums

Aggregate = Literal["product", "minimum", "last", "mean"]
"""What the probabilities of steps come to for a whole solution."""


class LabelledRewardModule(RewardModule):
    """Methods that train a head to tell desirable responses from undesirable ones."""

    data_kind = DataKind.UNPAIRED
    every_token: bool = False
    """Whether every token of the completion is scored, instead of the last one only."""

    @abstractmethod
    def losses(self, scores: Tensor, label: Tensor, *args: Any, **facts: Any) -> Tensor:
        """Losses of scored texts, or of scored tokens.

        Args:
            scores: [B], or [N] with `every_token`; log-odds, float64 with gradient.
            label: as long as `scores`, bool, True for desirable.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: LabelBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records accuracy and scores by label."""
        assert batch.label is not None, "unpaired data have labels"
        rows, label = batch.rows, batch.label
        scores = self.policy(rows, every_token=self.every_token).double()
        last = scores[rows.response_lengths.cumsum(0) - 1] if self.every_token else scores
        with torch.no_grad():
            self.meter.add("accuracy", ((last > 0) == label).double())
            self.meter.add("rewards/chosen", last, label)
            self.meter.add("rewards/rejected", last, ~label)
            self.record_scores(last)
        facts = self.facts(batch)
        if not self.every_token:
            return as_terms(self.losses(scores, label, **facts))
        values = self.losses(scores, label[rows.response], **facts)
        return {"loss": Term(segment_sums(values, rows.response, len(label)), Per.TOKENS)}


class RatedRewardModule(RewardModule):
    """Methods that train a head to predict ratings of several attributes."""

    data_kind = DataKind.RATED
    rating_names: tuple[str, ...] = ()
    """The attributes, as the data's columns have them; the head has a number for each."""

    @property
    def num_outputs(self) -> int:
        """One for each attribute."""
        return len(self.rating_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The attributes."""
        return self.rating_names

    @abstractmethod
    def losses(self, predicted: Tensor, ratings: Tensor, *args: Any, **facts: Any) -> Tensor:
        """Losses [B, A] of predicted ratings, which are left out where there is no rating.

        Args:
            predicted: [B, A] float64 with gradient.
            ratings: [B, A] float64, nan where the data have none.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: RatedBatch) -> dict[str, Term]:
        """Losses of the batch's completions, divided by the number of ratings; records each attribute's error."""
        predicted = self.predicted(batch.rows)
        known = ~batch.ratings.isnan()
        with torch.no_grad():
            errors = torch.where(known, predicted - batch.ratings, 0.0).square()
            for name, error, there in zip(self.rating_names, errors.T, known.T, strict=True):
                self.meter.add(f"mse/{name}", error, there)
            self.meter.add("mse", errors.sum(), count=known.sum())
            self.record_scores(self.response_scores(predicted))
        return self.rating_terms(predicted, batch.ratings, **self.facts(batch))

    def rating_terms(self, predicted: Tensor, ratings: Tensor, **facts: Any) -> dict[str, Term]:
        """Losses [B], summed over the ratings of each completion that there are."""
        # Not by a product: nan times 0 is nan, and so is its gradient.
        values = torch.where(~ratings.isnan(), self.losses(predicted, ratings.nan_to_num(), **facts), 0.0)
        return {"loss": Term(values.sum(1), Per.TOKENS)}

    def predicted(self, rows: Rows) -> Tensor:
        """What the head predicts, [M, A] float64."""
        # A head of one number has no second dimension.
        return self.policy(rows).double().reshape(-1, len(self.rating_names))

    def score_responses(self, rows: Rows) -> Tensor:
        """The score of each response of `rows`, [M] float64."""
        return self.response_scores(self.predicted(rows))


class StepRewardModule(RewardModule):
    """Methods that train a head to tell right steps of a solution from wrong ones."""

    data_kind = DataKind.STEPS
    head: ClassVar[Literal["lm", "reward", "tokens"]] = "tokens"
    step_labelling = StepLabelling()
    """Which steps are learnt from."""
    aggregate: Aggregate = "product"
    """What the steps' probabilities come to for a whole solution."""
    per_solution: bool = False
    """Whether every solution counts alike, instead of every step."""

    @property
    def num_outputs(self) -> int:
        """Two, of wrong and right, as TRL's process reward models have."""
        return 2

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses [N] of the labelled steps.

        Args:
            logits: [N] log-odds that a step is right, float64 with gradient.
            labels: [N] float64 in 0..1, how far it is right.
        """

    def terms(self, batch: StepBatch) -> dict[str, Term]:
        """Losses of the batch's solutions; records the accuracy of steps, in all and by label."""
        rows = batch.rows
        logits = self.step_logits(rows)
        with torch.no_grad():
            right = batch.labels > 0.5
            correct = ((logits > 0) == right).double()
            self.meter.add("accuracy", correct)
            self.meter.add("accuracy/right_steps", correct, right)
            self.meter.add("accuracy/wrong_steps", correct, ~right)
            self.meter.add("mean_reward", logits.sigmoid())
        values = segment_sums(self.losses(logits, batch.labels), rows.response, len(batch.source_rows))
        if self.per_solution:
            return {"loss": Term(values / rows.response_lengths)}
        return {"loss": Term(values, Per.TOKENS)}

    def step_logits(self, rows: Rows) -> Tensor:
        """Log-odds that each scored step is right, [N] float64: the second output less the first."""
        return log_odds(self.policy(rows, every_token=True))

    def score_responses(self, rows: Rows) -> Tensor:
        """What the probabilities of each solution's steps come to, [M] float64 in 0..1."""
        return solution_scores(self.step_logits(rows), rows, self.aggregate)


class ComparisonModule(RewardModule):
    """Methods that train a head to say which of two responses is better, with both in sight."""

    data_kind = DataKind.COMPARISONS

    @property
    def output_names(self) -> tuple[str, ...]:
        """What an exported model's number is."""
        return (COMPARISON,)

    @abstractmethod
    def losses(self, first: Tensor, second: Tensor, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the pairs.

        Args:
            first: [B] log-odds that the response that stands first is better, where that is the chosen one; float64
                with gradient.
            second: the same where the rejected response stands first.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: ComparisonBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records accuracy over both orders, and how much the order matters."""
        outputs = self.policy(batch.rows).double()
        first, second = outputs[batch.first], outputs[batch.second]
        with torch.no_grad():
            self.meter.add("accuracy", (first > second).double())
            self.meter.add("margin", (first - second) / 2)
            self.meter.add("position_bias", (first.sigmoid() + second.sigmoid() - 1).abs())
        return as_terms(self.losses(first, second, **self.facts(batch)))

    def score_responses(self, rows: Rows) -> Tensor:
        """There is no such score.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a preference model has no score for a single response",
            got=type(self).__name__,
            fix="let it compare pairs, as a judge (PairModelJudge); or train a reward model, such as BradleyTerry",
        )


def log_odds(outputs: Tensor) -> Tensor:
    """Log-odds [N], float64, that steps are right: of outputs [N, 2] for wrong and right, or of [N] themselves."""
    outputs = outputs.double()
    return outputs if outputs.ndim == 1 else outputs[:, 1] - outputs[:, 0]


def solution_scores(logits: Tensor, rows: Rows, how: Aggregate) -> Tensor:
    """Scores [M] in 0..1 of solutions from the log-odds [N] of their steps."""
    steps = logits.sigmoid().split(rows.response_lengths.tolist())
    return torch.stack([aggregated(probabilities, how) for probabilities in steps])


def aggregated(probabilities: Tensor, how: Aggregate) -> Tensor:
    """The score of a solution from those of its steps.

    Args:
        probabilities: [S] that each step is right.
        how: `product` (Lightman et al. 2023), `minimum` (Wang et al. 2023), `last` or `mean`.

    Returns:
        Scalar in 0..1.
    """
    if how == "product":
        # Of logarithms: hundreds of small factors would underflow in between.
        return probabilities.clamp(min=1e-300).log().sum().exp()
    if how == "minimum":
        return probabilities.min()
    return probabilities.mean() if how == "mean" else probabilities[-1]
