"""A round in the making: its steps in their order, each made once, by all processes together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lit_align.core.errors import DataError
from lit_align.loops.ranks import Ranks
from lit_align.loops.store import RoundFolder, Row, digest, read_rows, write_rows

Work = Callable[[Sequence[Row]], list[Row]]
"""Makes rows of a part of the rows before."""


class Round:
    """What makes the data of one round, step by step.

    A step is a named file, made of what the round was begun with and of all steps before it. One that is there is read;
    any other is made. So a process that was killed finds what it had, and the order of the calls is the algorithm.

    Args:
        folder: where the files are.
        inputs: digest of what the round is begun with: weights, seed data, settings.
        ranks: the processes that make it.
        part_size: most rows of which one process makes a part. The parts are the same whatever the number of processes,
            so that a model, which rounds otherwise in other batches, sees the same ones; processes take turns.
    """

    def __init__(self, folder: RoundFolder, inputs: str, ranks: Ranks | None = None, part_size: int = 64) -> None:
        self.folder, self.ranks, self.part_size = folder, ranks or Ranks(), part_size
        self.counts: Counter[str] = Counter()
        """What the step that is being made left out, by reason."""
        self._made_of = inputs
        self._done: list[str] = []

    @property
    def number(self) -> int:
        """Which round it is, from 1."""
        return self.folder.number

    @property
    def last(self) -> str:
        """Name of the step that was done last."""
        return self._done[-1]

    def step(self, name: str, make: Callable[[], list[Row]], **settings: Any) -> list[Row]:
        """A step that the first process makes by itself.

        Args:
            name: of the step, and of its file.
            make: its rows.
            **settings: what they depend on besides the steps before; JSON values.
        """
        return self._once(name, settings, lambda made_of: self._alone(name, made_of, make))

    def spread(
        self,
        name: str,
        items: Sequence[Row],
        work: Work,
        *,
        part_size: int | None = None,
        arrange: Work = list,
        **settings: Any,
    ) -> list[Row]:
        """A step that the processes make part by part, and each part by one of them.

        They have unlike numbers of parts: sharded models are to be gathered around the whole step, by all of them.

        Args:
            name: of the step, and of its file.
            items: rows of steps before.
            work: makes the rows of some items; all processes are in it at different times.
            part_size: items of a part; None, or more than the round allows: as many as it allows.
            arrange: puts the rows of all parts into the order in which they are kept.
            **settings: what the rows depend on besides; JSON values.
        """
        size = min(self.part_size, part_size or self.part_size)
        return self._once(name, settings, lambda made_of: self._by_parts(name, made_of, items, work, size, arrange))

    # ---------------------------------------------------------------- how

    def _once(self, name: str, settings: Mapping[str, Any], make: Callable[[str], None]) -> list[Row]:
        """The rows of a step: read, or made first."""
        assert name not in self._done, f"a round has one step '{name}'"
        made_of = digest(self._made_of, name, settings)
        if not self.folder.is_done(name, made_of):
            # Before anybody writes: a process that is late must not find what it was not to find.
            self.ranks.wait()
            self.counts.clear()
            make(made_of)
            self.ranks.wait()
        self._made_of = digest(made_of, self.folder.steps[name]["sha256"])
        self._done.append(name)
        return self.folder.rows(name)

    def _alone(self, name: str, made_of: str, make: Callable[[], list[Row]]) -> None:
        if self.ranks.is_first:
            started = time.monotonic()
            self._put(name, made_of, make(), started)

    def _by_parts(self, name: str, made_of: str, items: Sequence[Row], work: Work, size: int, arrange: Work) -> None:
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        # Of the same items in another order, or in parts of another size, each part is another one.
        key = digest(made_of, size, list(items))
        paths = [self.folder.part(name, key, number) for number in range(len(parts))]
        started = time.monotonic()
        for number, (part, path) in enumerate(zip(parts, paths, strict=True)):
            if number % self.ranks.size == self.ranks.rank and not path.is_file():
                write_rows(path, work(part))
        self.ranks.wait()
        if self.ranks.is_first:
            self._put(name, made_of, arrange([row for path in paths for row in read_rows(path)]), started)
            self.folder.forget_parts()

    def _put(self, name: str, made_of: str, rows: list[Row], started: float) -> None:
        """Write a step in place of what was made of something else, and of all that was made of that."""
        before = self.folder.steps
        self.folder.set_aside([step for step in before if step not in self._done])
        if self.folder.file(name).is_file():
            # Killed between the file and the manifest: it is written again.
            self.folder.file(name).unlink()
        facts: dict[str, Any] = {"seconds": round(time.monotonic() - started, 3)}
        if self.counts:
            facts["left_out"] = dict(sorted(self.counts.items()))
        self.folder.write(name, rows, made_of, facts)


@contextmanager
def known_by(folder: RoundFolder) -> Iterator[None]:
    """Say in which round it was that rows could not be made."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"round {folder.number}: {error.what}",
            file=error.file or str(folder.path),
            row=error.row,
            field=error.field,
            value=error.value,
            fix=error.fix,
        ) from error
