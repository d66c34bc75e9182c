"""Tokenised examples in an Arrow table: read from a memory map, never unpickled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import pyarrow as pa

from lit_align.core.batch import Example, Layout
from lit_align.core.layout import flat_length
from lit_align.data.batching import Size

_CHUNK_ROWS = 2_000


class Record(NamedTuple):
    """An example and which others it must not be separated from."""

    example: Example
    group: int
    """Equal for rows with the same prompt: a split puts them on one side."""


_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("ids", pa.list_(pa.list_(pa.int32()))),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("masks", pa.list_(pa.list_(pa.int8()))),
        ("pairs", pa.list_(pa.list_(pa.int32()))),
        ("margins", pa.list_(pa.float64())),
        ("label", pa.bool_()),
        ("reference_logps", pa.list_(pa.float64())),
        ("scores", pa.list_(pa.float64())),
        ("timestamp", pa.float64()),
        ("target", pa.int32()),
        ("truncated", pa.list_(pa.bool_())),
        ("group", pa.int64()),
        ("responses", pa.int32()),
        ("longest", pa.int32()),
        ("packed", pa.int32()),
        ("shared", pa.int32()),
    ]
)


def size_of(example: Example) -> Size:
    """What the example costs in each layout."""
    return Size(
        responses=len(example.ids),
        longest=max(map(len, example.ids)),
        packed=flat_length(example, Layout.PACKED),
        shared=flat_length(example, Layout.SHARED),
    )


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes an Arrow file; returns the number of rows."""
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in _batches(records):
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def read_store(path: Path) -> ExampleStore:
    """Opens an Arrow file that `write_records` wrote.

    Raises:
        ValueError: the file is not such a file.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"not an Arrow file: {path}") from error
    if table.schema != _SCHEMA:
        raise ValueError(f"not a table of examples: {path}")
    return ExampleStore(table)


class ExampleStore(Sequence[Example]):
    """Examples by index, in the order of the data or a selection of it."""

    def __init__(
        self,
        table: pa.Table,
        indices: Sequence[int] | None = None,
        reference_logps: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self._table = table
        self._indices = indices
        self._columns = {name: table.column(name) for name in Example._fields}
        self._reference_logps = reference_logps

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> ExampleStore:
        """The same in memory, without a file."""
        return cls(pa.Table.from_batches(list(_batches(records)), schema=_SCHEMA))

    def __len__(self) -> int:
        return self._table.num_rows if self._indices is None else len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        place = index if self._indices is None else self._indices[index]
        values = {name: column[place].as_py() for name, column in self._columns.items()}
        values["pairs"] = [(chosen, rejected) for chosen, rejected in values["pairs"]]
        if self._reference_logps is not None:
            values["reference_logps"] = list(self._reference_logps[index])
        return Example(**values)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int]) -> ExampleStore:
        """The examples at `indices`, in that order."""
        places = indices if self._indices is None else [self._indices[i] for i in indices]
        known = self._reference_logps
        return ExampleStore(self._table, places, None if known is None else [known[i] for i in indices])

    def set_reference_logps(self, values: Sequence[Sequence[float]]) -> None:
        """Attach cached log-probabilities, one list per example with a value per response.

        In place, since a loader may hold this store already.
        """
        assert len(values) == len(self), "one list per example"
        self._reference_logps = values

    @property
    def groups(self) -> list[int]:
        """For each example, the group that a split must keep together."""
        return self._pick(self._table.column("group").to_pylist())

    @property
    def labels(self) -> Counter[bool]:
        """How many examples are labelled desirable (True) and undesirable."""
        return Counter(label for label in self._pick(self._table.column("label").to_pylist()) if label is not None)

    @property
    def sizes(self) -> list[Size]:
        """What each example costs."""
        columns = [self._table.column(name).to_pylist() for name in Size._fields]
        return self._pick([Size(*row) for row in zip(*columns, strict=True)])

    def _pick(self, values: list) -> list:  # type: ignore[type-arg]
        return values if self._indices is None else [values[i] for i in self._indices]


def _batches(records: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, object]] = []
    for record in records:
        size = size_of(record.example)
        rows.append({**record.example._asdict(), "group": record.group, **size._asdict()})
        if len(rows) == _CHUNK_ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)
