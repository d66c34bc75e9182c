"""Training on data that are read while they are used, for sets larger than memory or disk.

A stream is cut into windows of so many rows. Each window is tokenised, shuffled and batched like a small data set,
by every rank alike, so that ranks get equally many batches; a position in the stream is a window and a batch in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from lit_align.core.batch import Batch, Example
from lit_align.data.batching import Size
from lit_align.data.collate import Collator, Drawn
from lit_align.data.loader import Run, State, TrainingLoader, check_order
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.data.store import size_of

Row = dict[str, Any]


class Stream(Protocol):
    """Rows that are read in order, and what becomes of them."""

    def rows(self, skip: int) -> Iterator[Row]:
        """Begins a pass behind the first `skip` rows."""

    def examples(self, rows: list[Row]) -> list[Example]:
        """The rows that can be used, tokenised."""

    def close(self, notes: list[str]) -> None:
        """Ends a pass; `notes` say what batching left out or repeated."""


class _Bookmark(NamedTuple):
    """Where a window begins."""

    batch: int
    """Micro-batches of this rank before it."""
    row: int
    """Raw rows before it."""


class StreamLoader(TrainingLoader):
    """Training batches of a stream; see `TrainingLoader`.

    Args:
        stream: what is read.
        sampler: makes the sampler of a window, of its sizes and a seed for its order.
        collate: makes a batch.
        run: what this loader serves.
        buffer: rows in a window; order is random within it.
        order: changes with every setting that moves an example to another batch.
    """

    def __init__(
        self,
        stream: Stream,
        sampler: Callable[[list[Size], str], ResumableBatchSampler],
        collate: Collator,
        run: Run | None = None,
        *,
        buffer: int = 10_000,
        order: str = "",
    ) -> None:
        super().__init__(run or Run())
        self.stream = stream
        self.make_sampler = sampler
        self.collate = collate
        self.buffer = buffer
        self.order = f"{order}/{buffer}"
        self._epoch = 0
        self._bookmarks = [_Bookmark(0, 0)]
        self._left_out = self._repeated = 0

    def batches(self, position: int, state: State | None) -> Iterator[Batch]:
        """The rest of the pass: from the window that holds `position` on.

        Lightning starts to read a stream before it has restored the epoch, so that comes from the state.
        """
        self._epoch = self.run.epoch() if state is None else state["epoch"]
        mark = _Bookmark(0, 0) if state is None else _Bookmark(*state["window"])
        self._bookmarks, self._left_out, self._repeated = [mark], 0, 0
        rows = self.stream.rows(mark.row)
        while window := list(islice(rows, self.buffer)):
            drawn = self._draw(self.stream.examples(window), mark)
            for batch in drawn[max(0, position - mark.batch) :]:
                yield cast(Batch, self.collate(batch))
            mark = _Bookmark(mark.batch + len(drawn), mark.row + len(window))
            self._bookmarks.append(mark)
        self.stream.close(coverage_notes(self._left_out, self._repeated))

    def _draw(self, examples: list[Example], mark: _Bookmark) -> list[Drawn]:
        """This rank's batches of a window."""
        if not examples:
            return []
        sampler = self.make_sampler([size_of(example) for example in examples], f"{self._epoch}/{mark.row}")
        self._left_out += sampler.left_out
        self._repeated += sampler.repeated
        return [self.collate.draw(examples, indices) for indices in sampler]

    def started(self, state: State | None) -> None:
        """Correct Lightning's count of batches after a checkpoint on the last batch of a pass.

        It knows that an epoch is over by the length of the loader, which a stream does not have. The second batch
        is asked for, to look ahead, just before the first one gets its number.
        """
        if self._ahead() and state is not None and state["position"] == 0:
            self.run.count_anew()

    def _ahead(self) -> int:
        """Batches that Lightning has read ahead: one, to know the last when it comes, unless there is a limit."""
        return int(math.isinf(self.run.limit()))

    def state_dict(self) -> State:
        """The position, and the window that the accumulation window there begins in."""
        position = max(0, self.position - self._ahead())
        if self.over or position >= self.run.limit():
            return {"position": 0, "epoch": self._epoch + 1, "window": [0, 0], "order": self.order}
        first = position // self.run.accumulation() * self.run.accumulation()
        while len(self._bookmarks) > 1 and self._bookmarks[1].batch <= first:
            self._bookmarks.pop(0)
        window = list(self._bookmarks[0])
        return {"position": position, "epoch": self._epoch, "window": window, "order": self.order}

    def check(self, state: State) -> None:
        """Refuse a position in other batches."""
        if state["position"]:
            check_order(state, self.order)


def coverage_notes(left_out: int, repeated: int) -> list[str]:
    """What the cutting into batches leaves out or shows twice, for the data report."""
    notes = []
    if left_out:
        notes.append(f"{left_out} examples per epoch are left out, since they do not fill a batch on every process")
    if repeated:
        notes.append(f"{repeated} examples per epoch are shown twice, so that every process has as many batches")
    return notes
