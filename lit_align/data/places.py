"""Where a row stands: numbers that are unique in a set, and the files and lines that they stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_align.data.canonical import BEFORE_COLUMN, FILE_COLUMN, ROW_COLUMN


class Places:
    """Numbers the rows of a set, and finds them again in its files.

    Rows of the first file keep their numbers, those of each further file are counted on from there. So the one
    number that examples and batches carry tells a row of the whole set, and of a single file it is the line.

    Args:
        source: file, folder or hub name of the set.
        files: names of the files that were seen, from `source`, by the number in front of their first row.
    """

    def __init__(self, source: str = "", files: dict[int, str] | None = None) -> None:
        self.source = source
        self.files = files or {}

    def number(self, raw: Mapping[str, Any]) -> int:
        """The number in the set of a row as it was read."""
        row, before = int(raw[ROW_COLUMN]), int(raw.get(BEFORE_COLUMN) or 0)
        if before not in self.files and raw.get(FILE_COLUMN) is not None:
            # Seen from the source: a cached report must hold after the folder was moved.
            self.files[before] = os.path.relpath(raw[FILE_COLUMN], self._root())
        return before + row

    def find(self, number: int) -> tuple[str, int]:
        """The file and the row in it; without files, the source and the number itself."""
        name, row = self._place(number)
        return (str(self._root() / name) if name else self.source), row

    def label(self, number: int) -> str:
        """The row for people: "3" where the source is the file, else "file:3"."""
        name, row = self._place(number)
        return f"{name}:{row}" if name else str(row)

    @property
    def names_files(self) -> bool:
        """Whether `label` names a file."""
        return bool(self.files) and os.curdir not in self.files.values()

    def _place(self, number: int) -> tuple[str, int]:
        before = max((first for first in self.files if first < number), default=None)
        if before is None or not self.names_files:
            return "", number
        return self.files[before], number - before

    def _root(self) -> Path:
        return local_path(self.source) or Path(self.source)


def local_path(source: str) -> Path | None:
    """The file or folder of a source, which may have a split behind its name; None for a name on the hub."""
    for name in (source, source.rpartition("@")[0]):
        path = Path(name).expanduser()
        if name and path.exists():
            return path
    return None
