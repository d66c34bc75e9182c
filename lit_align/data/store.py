"""Tokenised examples in an Arrow table: read from a memory map, never unpickled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import pyarrow as pa
import pyarrow.compute as pc

from lit_align.core.batch import Example, Layout
from lit_align.core.layout import flat_length
from lit_align.data.batching import Size

_CHUNK_ROWS = 2_000


class Record(NamedTuple):
    """An example and which others it must not be separated from."""

    example: Example
    group: int
    """Equal for rows with the same prompt: a split puts them on one side."""


class Kept(NamedTuple):
    """What is used of the pairs of an example."""

    pairs: list[int]
    """Places among its pairs."""
    weights: list[float] | None = None
    """How much each of these counts; None: what the example says."""


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
        ("step_labels", pa.list_(pa.float64())),
        ("ratings", pa.list_(pa.float64())),
        ("weights", pa.list_(pa.float64())),
        ("safe", pa.list_(pa.bool_())),
        ("label_probability", pa.float64()),
        ("win_probabilities", pa.list_(pa.float64())),
        ("game", pa.bool_()),
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
        kept: Sequence[Kept] | None = None,
    ) -> None:
        self._table = table
        self._indices = indices
        self._kept = kept
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
        example = Example(**values)
        return example if self._kept is None else _with_pairs(example, self._kept[index])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int]) -> ExampleStore:
        """The examples at `indices`, in that order."""
        places = indices if self._indices is None else [self._indices[i] for i in indices]
        logps, kept = self._reference_logps, self._kept
        return ExampleStore(
            self._table,
            places,
            None if logps is None else [logps[i] for i in indices],
            None if kept is None else [kept[i] for i in indices],
        )

    def choose(self, indices: Sequence[int], kept: Sequence[Kept]) -> ExampleStore:
        """The examples at `indices`, in that order, with some of their pairs."""
        assert self._kept is None, "pairs are chosen once"
        chosen = self.select(indices)
        chosen._kept = kept
        return chosen

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
    def rows(self) -> list[int]:
        """The row of each example in the data."""
        return self._pick(self._table.column("row").to_pylist())

    @property
    def pairs(self) -> list[list[tuple[int, int]]]:
        """All (chosen, rejected) pairs of each example."""
        return [[(a, b) for a, b in of_row] for of_row in self._pick(self._table.column("pairs").to_pylist())]

    @property
    def weights(self) -> list[list[float] | None]:
        """How much each of `pairs` counts, where the data say so."""
        return self._pick(self._table.column("weights").to_pylist())

    @property
    def completion_lengths(self) -> list[list[int]]:
        """Scored tokens of each response of each example."""
        ids, prompts = (pc.list_flatten(self._table.column(name)) for name in ("ids", "prompt_lengths"))
        flat = pc.subtract(pc.list_value_length(ids), prompts).to_pylist()
        lengths, start = [], 0
        for count, masks in zip(self._table.column("responses").to_pylist(), self._table.column("masks"), strict=True):
            whole = flat[start : start + count]
            lengths.append(whole if not masks.is_valid else [sum(mask) for mask in masks.as_py()])
            start += count
        return self._pick(lengths)

    @property
    def sizes(self) -> list[Size]:
        """What each example costs."""
        columns = [self._table.column(name).to_pylist() for name in Size._fields]
        return self._pick([Size(*row) for row in zip(*columns, strict=True)])

    def _pick(self, values: list) -> list:  # type: ignore[type-arg]
        return values if self._indices is None else [values[i] for i in self._indices]


def _with_pairs(example: Example, kept: Kept) -> Example:
    margins, weights = (
        None if values is None else [values[pair] for pair in kept.pairs]
        for values in (example.margins, example.weights)
    )
    return example._replace(
        pairs=[example.pairs[pair] for pair in kept.pairs],
        margins=margins,
        weights=weights if kept.weights is None else kept.weights,
    )


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
