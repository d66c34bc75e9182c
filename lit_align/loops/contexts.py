"""Prompts with a context before them, which the teacher reads and the policy does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import DataError
from lit_align.data.outcome import CONTEXT_CUT
from lit_align.data.rounds import round_records, round_sets
from lit_align.loops.source import as_response
from lit_align.loops.store import Row
from lit_align.loops.writer import Writer, known_prompts, question

_SOME_ANSWER = "x"
"""Rows with a context are read with an answer; which one makes no difference to their prompts."""


class ContextWriter(Writer):
    """Completes prompts after their contexts, in the very tokens that the teacher reads in training.

    Its prompts are rows with `context` besides `id` and `prompt`.
    """

    def length(self, prompt: Row) -> int:
        """About how long a prompt is with its context, characters."""
        return super().length(prompt) + len(str(prompt["context"]))

    def fitting(self, prompts: Sequence[Row], max_new_tokens: int) -> list[Row]:
        """The prompts that can be read whole with their contexts."""
        kept = {example.row for example in self._examples(prompts, None, max_new_tokens)}
        return [prompt for number, prompt in enumerate(prompts, start=1) if number in kept]

    def encode(self, prompts: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Tokens of prompts after their contexts.

        Raises:
            DataError: a prompt is too long.
        """
        read = self._examples(prompts, None, max_new_tokens)
        found = {example.row: list(example.ids[1][: example.prompt_lengths[1]]) for example in read}
        for number, row in enumerate(prompts, start=1):
            if number not in found:
                what = f"prompt {row['id']}: {CONTEXT_CUT}"
                raise DataError(what, row=row.get("row"), value=row["prompt"], fix="raise data.max_length")
        return [found[number] for number in range(1, len(prompts) + 1)]

    def read(self, prompts: Sequence[Row], texts: Sequence[str], max_new_tokens: int) -> dict[int, list[int]]:
        """Tokens of prompts after their contexts with their completions as the teacher reads them, by number from 1."""
        return {example.row: list(example.ids[1]) for example in self._examples(prompts, texts, max_new_tokens)}

    def _examples(self, prompts: Sequence[Row], texts: Sequence[str] | None, max_new_tokens: int) -> Iterator[Example]:
        """Prompts with answers, or with any, as they are learnt from; those that are too long are not there."""
        rows = [
            {**question(row), "context": row["context"], "completion": as_response(row["prompt"], text)}
            for row, text in zip(prompts, texts or [_SOME_ANSWER] * len(prompts), strict=True)
        ]
        with known_prompts(prompts):
            for record in round_records(round_sets(self.sets, rows, max_new_tokens), DataKind.CONTEXTUAL):
                yield record.example
