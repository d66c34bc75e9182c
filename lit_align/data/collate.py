"""From examples to one batch of a kind: rows of tokens and the tables beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lit_align.core.batch import (
    DataKind,
    DemonstrationBatch,
    Example,
    LabelBatch,
    Layout,
    PairBatch,
    PromptBatch,
    ResponseBatch,
    Rows,
)
from lit_align.core.layout import build_rows

# Examples of the data that are searched for another prompt.
_REACH = 256

AnyBatch = PairBatch | LabelBatch | DemonstrationBatch | PromptBatch | ResponseBatch


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
        kind: what the batch is for; ranked data must have been converted to pairs.
        layout: how tokens are laid out.
        score_prompts: also score the prompts of pairs.
        pad_id: fills padded rows; any token will do, since masks come from lengths.
        mismatched: add to unpaired completions the rows of a KL estimate.
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
        self.layout = layout
        self.score_prompts = score_prompts
        self.pad_id = pad_id
        self.mismatched = mismatched and kind is DataKind.UNPAIRED
        self.max_length = max_length
        builders: dict[DataKind, Callable[[Drawn], AnyBatch]] = {
            DataKind.PAIRS: self._pairs,
            DataKind.UNPAIRED: self._unpaired,
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
        offsets = [0, *accumulate(len(example.ids) for example in examples)]
        pairs = [(number, pair) for number, example in enumerate(examples) for pair in example.pairs]
        return PairBatch(
            rows=self._rows(examples, score_prompts=self.score_prompts),
            chosen=torch.tensor([offsets[number] + chosen for number, (chosen, _) in pairs]),
            rejected=torch.tensor([offsets[number] + rejected for number, (_, rejected) in pairs]),
            source_rows=torch.tensor([examples[number].row for number, _ in pairs]),
            margin=_margins(examples),
            reference_logps=_reference_logps(examples),
            prompt=torch.tensor([offsets[-1] + number for number, _ in pairs]) if self.score_prompts else None,
        )

    def _unpaired(self, drawn: Drawn) -> LabelBatch:
        examples = drawn.examples
        mismatched = self._mismatch(drawn) if self.mismatched else []
        return LabelBatch(
            rows=self._rows(examples),
            label=torch.tensor([bool(example.label) for example in examples]),
            source_rows=_source_rows(examples),
            kl_rows=self._rows(mismatched) if mismatched else None,
            reference_logps=_reference_logps(examples),
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


def _reference_logps(examples: Sequence[Example]) -> Tensor | None:
    """[M] float64; None unless every response has a cached value."""
    values: list[float] = []
    for example in examples:
        if example.reference_logps is None:
            return None
        values += example.reference_logps
    return torch.tensor(values, dtype=torch.float64)
