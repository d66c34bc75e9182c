"""A source that is read and tokenised while it is used, pass after pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lit_align.core.batch import Example
from lit_align.data.pipeline import Pipeline
from lit_align.data.places import Places
from lit_align.data.readers import peek, read_rows
from lit_align.data.report import DataReport
from lit_align.data.row_steps import RowSteps
from lit_align.data.sources import Source


class RowStream:
    """Rows of a source and the examples that come of them; see `stream.Stream`.

    Args:
        pipeline: the settings.
        source: see `readers.read_rows`.
        finished: gets the report of each pass.
    """

    def __init__(
        self, pipeline: Pipeline, source: Source, finished: Callable[[DataReport], None] = lambda report: None
    ) -> None:
        self.pipeline = pipeline
        self.source = source
        self.finished = finished
        self.fmt = pipeline.recognise(str(source), *peek(read_rows(source, streaming=True)))
        self.places = Places(str(source))
        """Where the rows stand that were read in any pass."""
        self._steps = self._new_steps()
        self._skipped = 0

    is_open = False
    """Whether a pass has begun and not ended."""

    @property
    def report(self) -> DataReport:
        """What was counted in this pass so far."""
        return self._steps.report

    def rows(self, skip: int) -> Iterator[dict[str, Any]]:
        """Begins a pass behind the first `skip` rows."""
        self._steps = self._new_steps()
        self._skipped = skip
        self.is_open = True
        if skip:
            self._steps.report.notes.append(f"resumed: rows 1 to {skip} of the stream were read before")
        return iter(read_rows(self.source, streaming=True).skip(skip))

    def examples(self, rows: list[dict[str, Any]]) -> list[Example]:
        """The rows that can be used, tokenised."""
        return [record.example for record in self._steps.records(rows)]

    def close(self, notes: list[str]) -> None:
        """Hands over the report.

        Raises:
            DataError: a whole pass gave nothing to learn from.
        """
        self.is_open = False
        self._steps.report.notes += notes
        self.finished(self._steps.report)
        if not self._skipped:
            self._steps.finish(training=True)

    def _new_steps(self) -> RowSteps:
        report = DataReport(str(self.source), self.fmt.describe())
        report.places = self.places
        # Names of all rows of a stream may not fit into memory.
        return RowSteps(self.pipeline, self.fmt, report, check_ids=False)
