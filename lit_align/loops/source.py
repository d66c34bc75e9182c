"""The seed of a loop: rows of `data.train`, as prompts with what the data say of them besides."""

from __future__ import annotations

from functools import cached_property

from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from lit_align.data.canonical import CanonicalRow, Completion, Message
from lit_align.data.demands import NO_DEMANDS
from lit_align.data.pipeline import Pipeline
from lit_align.data.places import local_path
from lit_align.data.readers import peek, read_rows
from lit_align.data.report import DataReport
from lit_align.data.row_steps import RowSteps
from lit_align.data.sets import DataSets
from lit_align.loops.store import Row

NO_PROMPT = "the row is a plain text without a prompt"
NOT_ANSWERED = "the conversation does not end with an assistant's turn"


class Seed:
    """The rows that a loop begins with.

    Args:
        sets: the settings of the data; `train` is the seed.
        kind: what the loop reads: prompts with anything, demonstrations, or pairs.
        split: another set to be read in the same way.
    """

    def __init__(self, sets: DataSets, kind: DataKind, split: str = "train") -> None:
        self.source = sets.source(split)
        self.kind = kind
        self._pipeline: Pipeline = sets.pipeline(kind)
        # What the method asks of its rows, it asks of those that the loop will make.
        self._pipeline.demands = NO_DEMANDS
        self.report = DataReport(str(self.source))
        self._rows: list[Row] = []

    @cached_property
    def fingerprint(self) -> list[str]:
        """Changes with the rows, and with all that decides how they are read and become tokens."""
        return [self._pipeline.key(self.source)]

    def rows(self) -> list[Row]:
        """The rows, read once, each with `id`, `row` (its number in the set), `prompt`, and what else the data say.

        Demonstrations have `completion`, pairs `chosen` and `rejected`, all as text. Columns that are not part of the
        format keep their names.

        Raises:
            DataError: there is nothing to begin with.
        """
        self._rows = self._rows or self._read()
        return self._rows

    def _read(self) -> list[Row]:
        local = isinstance(self.source, str) and local_path(self.source) is not None
        raw_rows = read_rows(self.source, streaming=local)
        fmt = self._pipeline.recognise(str(self.source), *peek(raw_rows))
        self.report.format = fmt.describe()
        steps = RowSteps(self._pipeline, fmt, self.report)
        found: dict[str, Row] = {}
        for raw in raw_rows:
            more = {name: raw[name] for name in fmt.ignored if raw.get(name) is not None}
            for canonical in steps.canonical([raw]):
                row = self._row(canonical)
                if isinstance(row, str):
                    self.report.drop(canonical.row, row)
                    continue
                # A conversion may make several rows of one.
                name = str(canonical.row)
                row["id"] = name if name not in found else f"{name}.{sum(key.startswith(f'{name}.') for key in found)}"
                found[row["id"]] = {"id": row["id"]} | {**more, **row}
        self.report.kept = len(found)
        if not found:
            raise DataError(
                "a loop has no row to begin with",
                file=str(self.source),
                value=self.report.to_text(),
                fix="give data.train rows with prompts",
            )
        return list(found.values())

    def _row(self, canonical: CanonicalRow) -> Row | str:
        """A row of the seed, or why it is not used."""
        prompt, completions = canonical.prompt, canonical.completions
        if canonical.messages is not None:
            prompt, last = canonical.messages[:-1], canonical.messages[-1]
            completions = [str(last["content"])]
            if last["role"] != "assistant" or not prompt:
                return NOT_ANSWERED
        if not prompt:
            return NO_PROMPT
        row: Row = {"row": canonical.row, "prompt": prompt}
        if self.kind is DataKind.DEMONSTRATIONS:
            row["completion"] = text_of(completions[0])
        elif self.kind is DataKind.PAIRS:
            chosen, rejected = canonical.pairs[0]
            row |= {"chosen": text_of(completions[chosen]), "rejected": text_of(completions[rejected])}
        return row | ({"tools": canonical.tools} if canonical.tools else {})


def text_of(completion: Completion) -> str:
    """The words of a response, whether it is a text or an assistant's turn."""
    return completion if isinstance(completion, str) else "".join(str(turn["content"]) for turn in completion)


def as_response(prompt: str | list[Message], text: str) -> str | list[Message]:
    """A response in the style of its prompt: a text, or an assistant's turn."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
