"""A reward model as a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from lit_align.core.batch import Example, Rows
from lit_align.core.errors import ConfigError
from lit_align.core.kinds.verdicts import Aggregate, log_odds, solution_scores
from lit_align.core.policy import COMPARISON
from lit_align.core.ranges import positive
from lit_align.functional.ensembles import Moments, standardised
from lit_align.judges.base import Columns, CountingPointwise, Judged
from lit_align.judges.text_model import CUT, TextModel, check_head, count_cut
from lit_align.rollouts.engine import Prompt

NOT_FINITE = "the score is not a finite number"


class RewardModelJudge(CountingPointwise):
    """Scores with a classifier of Hugging Face, as `lit-align score` does.

    A sequence classifier is read at the end of a response. A token classifier is a model of steps: it is read behind
    each step, and says how likely that one is right.

    Args:
        model: folder or hub name.
        weights: for a model of several numbers, how much each counts, by the names of its labels; those that are not
            named do not count. The one number of a cost model counts negatively without being told. For a base model
            with `allow_new_head`, as many numbers as there are names.
        standardise_on: mean and standard deviation of the model's scores on other responses; scores are then in units
            of that spread, around that mean.
        allow_new_head: take a model without a head that scores, with a random one.
        aggregate: for a model of steps, what their probabilities come to for a response: minimum, product, last or
            mean.
        **text_model: further settings of the model and its texts, see `TextModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: str,
        weights: dict[str, float] | None = None,
        standardise_on: tuple[float, float] | None = None,
        allow_new_head: bool = False,
        aggregate: Aggregate = "minimum",
        **text_model: Any,
    ) -> None:
        self.model = TextModel(model, "reward", **text_model)
        self.weights = weights
        if aggregate not in get_args(Aggregate):
            fix = f"one of {', '.join(get_args(Aggregate))}"
            raise ConfigError("there is no such way to put steps together", got=f"aggregate: {aggregate}", fix=fix)
        self.aggregate = aggregate
        self.standardise_on = check_moments("standardise_on", standardise_on)
        self.allow_new_head = allow_new_head

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        call = self._steps() if self.model.spec.head == "tokens" else self._responses()
        check_head(self.model, self.allow_new_head)
        read = self.model.read(prompts, completions)
        kept = [example for example in read if isinstance(example, Example)]
        self.counts.events[CUT] += count_cut(kept)
        scores = iter(self.model.values(kept, call))
        return [
            finite_or_none(next(scores)[0]) if isinstance(example, Example) else Judged(None, example.reason)
            for example in read
        ]

    def _responses(self) -> Callable[[Any, Rows], Tensor]:
        """What makes scores [M] of responses, by the numbers at their ends."""
        weights = self._output_weights()
        self.model.outputs = len(weights)
        return lambda scorer, rows: self._one_number(scorer(rows), weights)

    def _steps(self) -> Callable[[Any, Rows], Tensor]:
        """What makes scores [M] of responses, by the numbers behind their steps."""
        names = self.model.label_names
        if len(names) > 2 or self.weights is not None:
            got = f"{self.model.name}: {', '.join(names)}" + (
                "" if self.weights is None else f"; weights {self.weights}"
            )
            fix = "give a model with outputs for wrong and right steps, and no weights"
            raise ConfigError("a model of steps says of each how likely it is right", got=got, fix=fix)
        if not self.model.knows_steps:
            fix = "set step_separator to what stood behind each step in training, such as a line feed"
            raise ConfigError("nothing says where the steps of a response end", got=self.model.name, fix=fix)
        self.model.outputs = len(names)

        def call(scorer: Any, rows: Rows) -> Tensor:
            scores = solution_scores(log_odds(scorer(rows, every_token=True)), rows, self.aggregate)
            return scores if self.standardise_on is None else standardised(scores, self.standardise_on)

        return call

    def _one_number(self, outputs: Tensor, weights: Sequence[float]) -> Tensor:
        """[M] scores of outputs [M] or [M, K]."""
        scores = outputs.double()
        if scores.ndim == 1:
            scores = scores[:, None]
        scores = scores @ torch.tensor(weights, dtype=torch.float64, device=scores.device)
        return scores if self.standardise_on is None else standardised(scores, self.standardise_on)

    def _output_weights(self) -> list[float]:
        """How much each number of the head counts."""
        names = self.model.label_names or list(self.weights or ["score"])
        if names == [COMPARISON]:
            raise ConfigError(
                "the model reads two responses at once, and has no score for a single one",
                got=self.model.name,
                fix="let PairModelJudge ask it",
            )
        if self.weights is None:
            if len(names) > 1:
                raise ConfigError(
                    "the model gives several numbers, and nothing says how much each counts",
                    got=f"{self.model.name}: {', '.join(names)}",
                    fix=f"set weights, as in {{{names[0]}: 1}}",
                )
            # A cost model's number is lower for what is better.
            return [-1.0 if list(names) == ["cost"] else 1.0]
        unknown = [name for name in self.weights if name not in names]
        if unknown or not self.weights:
            raise ConfigError(
                "weights name what the model does not give",
                got=f"{', '.join(unknown) or 'no weights'}, for {self.model.name}",
                fix=f"it gives {', '.join(names)}",
            )
        return [self.weights.get(name, 0.0) for name in names]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Lengths of texts, tokens of this model."""
        return [len(ids) for ids in self.model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def release(self) -> None:
        """Give back the model's memory."""
        self.model.release()


def finite_or_none(score: float) -> Judged:
    """The score, or where a model has overflowed, none."""
    return Judged(score) if math.isfinite(score) else Judged(None, f"{NOT_FINITE}: {score}")


def check_moments(name: str, given: Sequence[float] | Mapping[str, float] | None) -> Moments | None:
    """Mean and standard deviation that scores are standardised by.

    Raises:
        ConfigError: the standard deviation is not above 0.
    """
    if given is None:
        return None
    values = Moments(*(given.values() if isinstance(given, Mapping) else given))
    positive(f"{name}: std", values.std)
    return values
