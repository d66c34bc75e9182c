"""From tokenised examples to flat rows: padded, packed, or with each prompt standing once.

The three layouts score the same tokens and differ in what stands beside what. Everything here is integer
bookkeeping on the CPU, done once per batch by the collator.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_align.core.batch import Example, Layout, Rows, Segments
from lit_align.core.errors import DataError

_Ints = npt.NDArray[np.int64]


def build_rows(examples: Sequence[Example], layout: Layout, *, score_prompts: bool = False, pad_id: int = 0) -> Rows:
    """Lays out examples as rows of tokens, with the tokens to score.

    Responses are numbered in order: those of the first example, those of the second, and so on. With
    `score_prompts` one pseudo-response per example follows after all real ones; it scores the prompt's tokens
    but the first, on the path of the example's first response: none, where the prompt has one token. Where the prompt
    has no tokens, the first token of the completion is not scored, since nothing predicts it.

    Args:
        examples: what to lay out, at least one.
        layout: how; with `Layout.SHARED` the longest common prefix of an example's prompts stands once.
        score_prompts: add the pseudo-responses.
        pad_id: token that fills padded rows on the right.

    Returns:
        Rows of M = responses (+ examples) responses, on the CPU.

    Raises:
        DataError: a response without a token to score.
    """
    assert examples, "a batch needs an example"
    row = _FlatRow()
    for example in examples:
        row.add(example, _shared_prefix(example) if layout is Layout.SHARED else 0)
    if score_prompts:
        row.add_prompts(examples)
    rows = row.padded(pad_id) if layout is Layout.PADDED else row.flat()
    return rows._replace(num_tokens=sum(len(ids) for example in examples for ids in example.ids))


def flat_length(example: Example, layout: Layout) -> int:
    """Counts the tokens that an example costs in a layout, before any padding."""
    tokens = sum(map(len, example.ids))
    if layout is Layout.SHARED:
        tokens -= (len(example.ids) - 1) * _shared_prefix(example)
    return tokens


def _shared_prefix(example: Example) -> int:
    """Length of the longest token prefix that all prompts of the example have in common.

    Prompts may differ in their last tokens, where the tokenizer merged them with the response.
    """
    if len(example.ids) == 1:
        return 0
    length, first = min(example.prompt_lengths), example.ids[0]
    for other in example.ids[1:]:
        if first[:length] != other[:length]:
            length = next(i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b)
    return length


class _Scored(NamedTuple):
    """A run of the row in which one response scores its tokens."""

    start: int
    size: int
    mask: Sequence[int] | None
    last: int
    """Position of the response's last token."""
    row: int
    """1-based row of the data."""
    may_be_empty: bool


class _FlatRow:
    """Collects examples into one row of tokens; responses stand one after the other."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.plan: list[tuple[int, int, int, int]] = []
        self.scored: list[_Scored] = []
        self.first_segment: list[int] = []
        """For each example, where its first response starts."""

    def add(self, example: Example, prefix: int) -> None:
        """Appends an example's responses; all but the first leave out `prefix` tokens and attend to them."""
        origin = len(self.tokens)
        self.first_segment.append(origin)
        for number, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True)):
            skipped = prefix if number else 0
            start = len(self.tokens)
            self.tokens += ids[skipped:] if skipped else ids
            end = len(self.tokens)
            self.plan.append((start, end, origin, origin + skipped))
            first = max(prompt, 1)
            mask = example.masks[number] if example.masks is not None else None
            if mask is not None:
                assert len(mask) == len(ids) - prompt, "a mask covers the completion"
                mask = mask[first - prompt :]
            self.scored.append(
                _Scored(
                    start + first - skipped,
                    max(len(ids) - first, 0),
                    mask,
                    end - 1,
                    example.row,
                    may_be_empty=False,
                )
            )

    def add_prompts(self, examples: Sequence[Example]) -> None:
        """Appends a pseudo-response for the prompt of each example that was added before."""
        for example, start in zip(examples, self.first_segment, strict=True):
            prompt = example.prompt_lengths[0]
            self.scored.append(
                _Scored(
                    start + 1,
                    max(prompt - 1, 0),
                    None,
                    start + max(prompt, 1) - 1,
                    example.row,
                    may_be_empty=True,
                )
            )

    def flat(self) -> Rows:
        """The examples as one row, with segments that say who attends to whom."""
        plan = np.array(self.plan, dtype=np.int64)
        length = len(self.tokens)
        # A segment goes on where its prefix ended.
        positions = _ranges(plan[:, 3] - plan[:, 2], plan[:, 1] - plan[:, 0])
        queries, prefixes = plan[:, 1] - plan[:, 0], plan[:, 3] - plan[:, 2]
        # Keys alternate: prefix of segment 0, segment 0, prefix of segment 1, segment 1, ...
        key_index = _ranges(plan[:, [2, 0]].reshape(-1), np.stack([prefixes, queries], axis=1).reshape(-1))
        segments = Segments(
            query_bounds=_bounds(queries),
            key_bounds=_bounds(prefixes + queries),
            key_index=torch.from_numpy(key_index),
            plan=tuple(self.plan),
            max_query=int(queries.max()),
            max_key=int((prefixes + queries).max()),
        )
        ids = self._ids()
        return self._rows(ids, ids[None], positions[None], np.array([length]), segments, np.arange(length))

    def padded(self, pad_id: int) -> Rows:
        """The examples with a row for each response."""
        plan = np.array(self.plan, dtype=np.int64)
        lengths = plan[:, 1] - plan[:, 0]
        count, width = len(lengths), int(lengths.max())
        # Where each token of the packed row comes to stand in the rectangle.
        places = _ranges(np.arange(count) * width, lengths)
        ids = self._ids()
        rectangle = np.full(count * width, pad_id, dtype=np.int64)
        rectangle[places] = ids
        positions = np.broadcast_to(np.arange(width), (count, width)).copy()
        return self._rows(ids, rectangle.reshape(count, width), positions, lengths, None, places)

    def _ids(self) -> _Ints:
        return np.frombuffer(array("q", self.tokens), dtype=np.int64).copy()

    def _rows(
        self,
        ids: _Ints,
        input_ids: _Ints,
        positions: _Ints,
        row_lengths: _Ints,
        segments: Segments | None,
        places: _Ints,
    ) -> Rows:
        """Adds the scored tokens; `places` maps positions of the packed row to those of `input_ids`."""
        targets, response, lengths = self._targets()
        before = np.arange(-1, len(ids) - 1)
        for start, _, _, prefix_end in self.plan:
            before[start] = prefix_end - 1
        as_tensor = torch.from_numpy
        return Rows(
            input_ids=as_tensor(input_ids),
            position_ids=as_tensor(positions),
            row_lengths=as_tensor(row_lengths),
            segments=segments,
            pred_index=as_tensor(places[before[targets]]),
            target=as_tensor(ids[targets]),
            response=as_tensor(response),
            response_lengths=as_tensor(lengths),
            last_index=as_tensor(places[np.array([scored.last for scored in self.scored])]),
            token_index=as_tensor(places[targets]),
        )

    def _targets(self) -> tuple[_Ints, _Ints, _Ints]:
        """Scored positions of the packed row, the response of each, and how many each response has."""
        counts = np.array([scored.size for scored in self.scored], dtype=np.int64)
        targets = _ranges(np.array([scored.start for scored in self.scored], dtype=np.int64), counts)
        response = np.repeat(np.arange(len(counts)), counts)
        if any(scored.mask is not None for scored in self.scored):
            kept = np.ones(len(targets), dtype=bool)
            ends = np.cumsum(counts)
            for scored, end in zip(self.scored, ends, strict=True):
                if scored.mask is not None:
                    kept[end - scored.size : end] = scored.mask
            targets, response = targets[kept], response[kept]
            counts = np.bincount(response, minlength=len(counts)).astype(np.int64)
        for number in np.flatnonzero(counts == 0):
            empty = self.scored[number]
            if empty.may_be_empty:
                continue
            raise DataError(
                "The completion has no token to score.",
                row=empty.row,
                field="completion",
                fix="Drop the row, or give it text; a mask must leave at least one token.",
            )
        return targets, response, counts


def _ranges(starts: _Ints, counts: _Ints) -> _Ints:
    """Concatenates `arange(start, start + count)` over all starts."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(int(ends[-1]) if len(ends) else 0)


def _bounds(lengths: _Ints) -> Tensor:
    """Cumulative lengths from 0, as attention kernels want them: [S + 1] int32."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
