"""From examples to one batch of a kind: rows of tokens and the tables beside them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_align.core.batch import (
    Batch,
    ComparisonBatch,
    ContextBatch,
    DataKind,
    DemonstrationBatch,
    Example,
    JudgedBatch,
    LabelBatch,
    Layout,
    ListBatch,
    PairBatch,
    ParaphraseBatch,
    PromptBatch,
    RatedBatch,
    ResponseBatch,
    Rows,
    StepBatch,
)
from lit_align.core.layout import build_rows

# Examples of the data that are searched for another prompt.
_REACH = 256

AnyBatch = Batch | PromptBatch | ResponseBatch


class Drawn(NamedTuple):
    """Examples for one batch."""

    examples: Sequence[Example]
    neighbour: Example | None = None
    """A later example of the data, not part of the batch: lends its completion where the batch has only one prompt."""
    indices: Sequence[int] = ()
    """Where the examples stand in their set."""


class Collator:
    """Turns examples into a batch; without state and randomness, so that workers and resumed runs agree.

    Args:
        kind: what the batch is for. Ranked lists come best first, equal scores in the order of the data; they may be
            of different lengths.
        layout: how tokens are laid out.
        score_prompts: also score the prompts of pairs.
        pad_id: fills padded rows; any token will do, since masks come from lengths.
        mismatched: add to unpaired or scored completions the rows of a KL estimate.
        max_length: tokens that no mismatched row may exceed.
    """

    def __init__(
        self,
        kind: DataKind,
        layout: Layout,
        *,
        score_prompts: bool = False,
        pad_id: int = 0,
        mismatched: bool = False,
        max_length: int | None = None,
    ) -> None:
        self.kind = kind
        self.layout = layout
        self.score_prompts = score_prompts
        self.pad_id = pad_id
        self.mismatched = mismatched and kind in (DataKind.UNPAIRED, DataKind.SCORED)
        self.max_length = max_length
        builders: dict[DataKind, Callable[[Drawn], AnyBatch]] = {
            DataKind.PAIRS: self._pairs,
            DataKind.UNPAIRED: self._labelled,
            DataKind.SCORED: self._labelled,
            DataKind.RANKED: self._ranked,
            DataKind.JUDGED: self._judged,
            DataKind.PARAPHRASED: self._paraphrased,
            DataKind.CONTEXTUAL: self._contextual,
            DataKind.STEPS: self._steps,
            DataKind.RATED: self._rated,
            DataKind.COMPARISONS: self._compared,
            DataKind.DEMONSTRATIONS: self._demonstrations,
            DataKind.PROMPTS: self._prompts,
            DataKind.RESPONSES: self._responses,
        }
        self._build = builders[kind]

    def __call__(self, drawn: Drawn) -> AnyBatch:
        """Collates one batch."""
        return self._build(drawn)

    def draw(self, examples: Sequence[Example], indices: Sequence[int]) -> Drawn:
        """The examples at `indices`; if mismatched rows need it, also the next example with another prompt."""
        drawn = [examples[index] for index in indices]
        own = drawn[0]
        if not self.mismatched or not all(_same_prompt(own, other) for other in drawn):
            return Drawn(drawn, indices=indices)
        following = (examples[(indices[-1] + step) % len(examples)] for step in range(1, min(_REACH, len(examples))))
        return Drawn(drawn, next((other for other in following if not _same_prompt(own, other)), None))

    def _pairs(self, drawn: Drawn) -> PairBatch:
        examples = drawn.examples
        offsets = _offsets(examples)
        pairs = [(number, pair) for number, example in enumerate(examples) for pair in example.pairs]
        scores, safe = _by_pair(examples, "scores", torch.float64), _by_pair(examples, "safe", torch.bool)
        wins = _by_pair(examples, "win_probabilities", torch.float64)
        return PairBatch(
            rows=self._rows(examples, score_prompts=self.score_prompts),
            chosen=torch.tensor([offsets[number] + chosen for number, (chosen, _) in pairs]),
            rejected=torch.tensor([offsets[number] + rejected for number, (_, rejected) in pairs]),
            source_rows=torch.tensor([examples[number].row for number, _ in pairs]),
            margin=_margins(examples),
            reference_logps=_reference_logps(examples),
            prompt=torch.tensor([offsets[-1] + number for number, _ in pairs]) if self.score_prompts else None,
            chosen_scores=None if scores is None else scores[:, 0],
            rejected_scores=None if scores is None else scores[:, 1],
            timestamp=_of_pairs(examples, "timestamp", torch.float64),
            target=_targets(examples, offsets),
            weight=_weights(examples),
            chosen_safe=None if safe is None else safe[:, 0],
            rejected_safe=None if safe is None else safe[:, 1],
            label_probability=_of_pairs(examples, "label_probability", torch.float64),
            chosen_wins=None if wins is None else wins[:, 0],
            rejected_wins=None if wins is None else wins[:, 1],
            game=_of_pairs(examples, "game", torch.bool),
        )

    def _ranked(self, drawn: Drawn) -> ListBatch:
        examples = drawn.examples
        lists = [example.scores or [] for example in examples]
        best_first = [sorted(range(len(scores)), key=lambda place: -scores[place]) for scores in lists]
        longest = max(map(len, lists))
        places = torch.zeros(len(lists), longest, dtype=torch.int64)
        mask = torch.zeros(len(lists), longest, dtype=torch.bool)
        values = torch.zeros(len(lists), longest, dtype=torch.float64)
        for number, (offset, order) in enumerate(zip(_offsets(examples), best_first, strict=False)):
            count = len(order)
            places[number, :count] = offset + torch.tensor(order)
            mask[number, :count] = True
            values[number, :count] = torch.tensor([lists[number][place] for place in order], dtype=torch.float64)
        return ListBatch(
            rows=self._rows(examples),
            places=places,
            mask=mask,
            scores=values,
            source_rows=_source_rows(examples),
            reference_logps=_reference_logps(examples),
        )

    def _labelled(self, drawn: Drawn) -> LabelBatch:
        examples = drawn.examples
        mismatched = self._mismatch(drawn) if self.mismatched else []
        scored = self.kind is DataKind.SCORED
        scores = [score for example in examples for score in example.scores or []]
        return LabelBatch(
            rows=self._rows(examples),
            label=None if scored else _labels(examples),
            source_rows=_source_rows(examples),
            kl_rows=self._rows(mismatched) if mismatched else None,
            reference_logps=_reference_logps(examples),
            score=torch.tensor(scores, dtype=torch.float64) if scored else None,
        )

    def _judged(self, drawn: Drawn) -> JudgedBatch:
        examples, offsets = drawn.examples, _offsets(drawn.examples)
        judged = [offset + 1 if len(e.ids) > 1 else -1 for e, offset in zip(examples, offsets, strict=False)]
        return JudgedBatch(
            rows=self._rows(examples),
            plain=torch.tensor(offsets[:-1]),
            judged=torch.tensor(judged),
            label=_labels(examples),
            source_rows=_source_rows(examples),
        )

    def _paraphrased(self, drawn: Drawn) -> ParaphraseBatch:
        original = torch.tensor(_offsets(drawn.examples)[:-1])
        return ParaphraseBatch(
            rows=self._rows(drawn.examples),
            original=original,
            paraphrase=original + 1,
            group=torch.tensor([_prompt_hash(example) for example in drawn.examples]),
            source_rows=_source_rows(drawn.examples),
        )

    def _contextual(self, drawn: Drawn) -> ContextBatch:
        rows, teacher_rows = (self._rows([_one_response(e, side) for e in drawn.examples]) for side in range(2))
        assert torch.equal(rows.target, teacher_rows.target), "policy and teacher read the same completions"
        return ContextBatch(rows=rows, teacher_rows=teacher_rows, source_rows=_source_rows(drawn.examples))

    def _steps(self, drawn: Drawn) -> StepBatch:
        labels = [label for example in drawn.examples for label in example.step_labels or []]
        rows = self._rows(drawn.examples)
        assert len(labels) == len(rows.target), "every scored token ends a step with a label"
        return StepBatch(
            rows=rows,
            labels=torch.tensor(labels, dtype=torch.float64),
            source_rows=_source_rows(drawn.examples),
        )

    def _rated(self, drawn: Drawn) -> RatedBatch:
        return RatedBatch(
            rows=self._rows(drawn.examples),
            ratings=torch.tensor([example.ratings for example in drawn.examples], dtype=torch.float64),
            source_rows=_source_rows(drawn.examples),
        )

    def _compared(self, drawn: Drawn) -> ComparisonBatch:
        first = torch.tensor(_offsets(drawn.examples)[:-1])
        return ComparisonBatch(
            rows=self._rows(drawn.examples),
            first=first,
            second=first + 1,
            source_rows=_source_rows(drawn.examples),
        )

    def _demonstrations(self, drawn: Drawn) -> DemonstrationBatch:
        return DemonstrationBatch(rows=self._rows(drawn.examples), source_rows=_source_rows(drawn.examples))

    def _prompts(self, drawn: Drawn) -> PromptBatch:
        prompts = [example.ids[0][: example.prompt_lengths[0]] for example in drawn.examples]
        width = max(map(len, prompts))
        return PromptBatch(
            input_ids=torch.tensor([[self.pad_id] * (width - len(prompt)) + prompt for prompt in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            source_rows=_source_rows(drawn.examples),
        )

    def _responses(self, drawn: Drawn) -> ResponseBatch:
        return ResponseBatch(
            rows=self._rows(drawn.examples),
            indices=torch.tensor(drawn.indices),
            reference_logps=_reference_logps(drawn.examples),
        )

    def _mismatch(self, drawn: Drawn) -> list[Example]:
        """Each prompt with the completion of the next example that has another; none where that is the own one."""
        rows = []
        for number, own in enumerate(drawn.examples):
            others = [*drawn.examples[number + 1 :], *drawn.examples[:number]]
            if drawn.neighbour is not None:
                others.append(drawn.neighbour)
            other = next((other for other in others if not _same_prompt(own, other)), None)
            row = None if other is None else self._exchange(own, other)
            if row is not None:
                rows.append(row)
        return rows

    def _exchange(self, own: Example, other: Example) -> Example | None:
        prompt, completion = own.prompt_lengths[0], other.ids[0][other.prompt_lengths[0] :]
        if completion == own.ids[0][prompt:]:
            return None
        room = len(completion) if self.max_length is None else self.max_length - prompt
        mask = None if other.masks is None else other.masks[0][:room]
        if room < 1 or (mask is not None and not any(mask)):
            return None
        ids = own.ids[0][:prompt] + completion[:room]
        return Example(own.row, [ids], [prompt], None if mask is None else [mask])

    def _rows(self, examples: Sequence[Example], *, score_prompts: bool = False) -> Rows:
        return build_rows(examples, self.layout, score_prompts=score_prompts, pad_id=self.pad_id)


def _same_prompt(one: Example, other: Example) -> bool:
    """Whether two examples are of one row of the data, or have equal prompts.

    The tokenizer may have merged the prompts' ends with different completions, so tokens alone do not tell.
    """
    first, second = (example.ids[0][: example.prompt_lengths[0]] for example in (one, other))
    return one.row == other.row or first == second


def _offsets(examples: Sequence[Example]) -> list[int]:
    """The number of each example's first response in the batch, and behind them how many there are."""
    return [0, *accumulate(len(example.ids) for example in examples)]


def _one_response(example: Example, number: int) -> Example:
    """The example with one of its responses only."""
    return Example(
        row=example.row,
        ids=[example.ids[number]],
        prompt_lengths=[example.prompt_lengths[number]],
        masks=None if example.masks is None else [example.masks[number]],
    )


def _prompt_hash(example: Example) -> int:
    """The same number for the same prompt, in every batch and on every rank; int64."""
    prompt = array("q", example.ids[0][: example.prompt_lengths[0]])
    return int.from_bytes(hashlib.sha256(prompt.tobytes()).digest()[:8], "big", signed=True)


def _labels(examples: Sequence[Example]) -> Tensor:
    return torch.tensor([bool(example.label) for example in examples])


def _source_rows(examples: Sequence[Example]) -> Tensor:
    return torch.tensor([example.row for example in examples])


def _margins(examples: Sequence[Example]) -> Tensor | None:
    """[B] float64; None where no pair has a margin.

    A pair without one has 0, which is what a loss takes no margin for: the loss must not depend on which pairs
    share a batch.
    """
    if all(example.margins is None for example in examples):
        return None
    margins = [m for example in examples for m in example.margins or [0.0] * len(example.pairs)]
    return torch.tensor(margins, dtype=torch.float64)


def _weights(examples: Sequence[Example]) -> Tensor | None:
    """[B] float64; None where no pair has a weight. A pair without one counts once."""
    if all(example.weights is None for example in examples):
        return None
    weights = [w for example in examples for w in example.weights or [1.0] * len(example.pairs)]
    return torch.tensor(weights, dtype=torch.float64)


def _by_pair(
    examples: Sequence[Example], name: Literal["scores", "safe", "win_probabilities"], dtype: torch.dtype
) -> Tensor | None:
    """[B, 2], what the responses have, of the chosen and the rejected ones; None unless all examples have it."""
    if any(getattr(example, name) is None for example in examples):
        return None
    return torch.tensor([[getattr(e, name)[side] for side in pair] for e in examples for pair in e.pairs], dtype=dtype)


def _of_pairs(
    examples: Sequence[Example], name: Literal["timestamp", "label_probability", "game"], dtype: torch.dtype
) -> Tensor | None:
    """[B], what the rows have, for each of their pairs; None unless all examples have it."""
    values = [getattr(example, name) for example in examples for _ in example.pairs]
    return None if None in values else torch.tensor(values, dtype=dtype)


def _targets(examples: Sequence[Example], offsets: Sequence[int]) -> Tensor | None:
    """[B] int64; None where no pair has a target. For a pair without one it is the chosen response."""
    if all(example.target is None for example in examples):
        return None
    places = zip(examples, offsets, strict=False)
    targets = [at + (chosen if e.target is None else e.target) for e, at in places for chosen, _ in e.pairs]
    return torch.tensor(targets)


def _reference_logps(examples: Sequence[Example]) -> Tensor | None:
    """[M] float64; None unless every response has a cached value."""
    values: list[float] = []
    for example in examples:
        if example.reference_logps is None:
            return None
        values += example.reference_logps
    return torch.tensor(values, dtype=torch.float64)
