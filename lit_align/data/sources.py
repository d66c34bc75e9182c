"""What data can be given as: the name of something to read, or rows that are in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from lit_align.core.errors import ConfigError

Given = str | Path | Iterable[Mapping[str, Any]]
"""What a user may give: see `readers.read_rows`; or a `datasets.Dataset`, or a list of rows."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Rows that the user has made or loaded; as text their name, for messages and reports."""

    name: str
    rows: Dataset

    def __str__(self) -> str:
        return self.name

    @property
    def fingerprint(self) -> str:
        """Changes with the rows; the same in every process that makes them alike."""
        return str(self.rows._fingerprint)


Source = str | InMemory
"""What rows are read from."""


def as_source(given: Given | None, split: str) -> Source | None:
    """What to read for a split.

    Args:
        given: by the user.
        split: which the setting is named after.

    Raises:
        ConfigError: it is nothing that rows can be read from again and again.
    """
    if given is None or isinstance(given, str | os.PathLike):
        return as_text(given)
    name = f"the data set given as {split}"
    if isinstance(given, Dataset):
        return InMemory(name, _plain(given, split))
    if isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given):
        return InMemory(name, _table(given, split))
    fix = "give a file, a folder, a name on the hub, a datasets.Dataset or a list of dicts"
    if isinstance(given, DatasetDict | IterableDatasetDict):
        fix = f"give one of its splits: {', '.join(map(repr, given))}"
    elif isinstance(given, IterableDataset):
        fix = "name the files or the hub's data set that it reads, with data.streaming: true; or make a Dataset of it"
    raise ConfigError("rows cannot be read from this object", got=f"data.{split}: {type(given).__name__}", fix=fix)


def as_text(given: str | os.PathLike[str] | None) -> str | None:
    """A name or path as text, which checkpoints and reports can hold."""
    return None if given is None else os.fspath(given)


def _plain(rows: Dataset, split: str) -> Dataset:
    """The columns that the user has left visible, as Python values."""
    if rows.format["type"] == "custom":
        raise ConfigError(
            "a transform that makes rows while they are read cannot be told from another, so nothing could be cached",
            got=f"data.{split}: a Dataset with with_transform or set_transform",
            fix="apply it with map",
        )
    visible = rows.format["columns"]
    return rows.with_format(None) if visible == rows.column_names else rows.with_format(None).select_columns(visible)


def _table(rows: Sequence[Mapping[str, Any]], split: str) -> Dataset:
    """A data set of rows; not `Dataset.from_list`, which keeps only the columns of the first row."""
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            "a list of rows does not make a table: a column holds values of several types",
            got=f"data.{split}: {str(error).splitlines()[0]}",
            fix="give the rows the same types, or write them as JSON lines and give the file",
        ) from None
