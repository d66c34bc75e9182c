"""A file of JSON lines that grows by whole lines and can be cut back to an earlier place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict


class Mark(TypedDict):
    """A place in a file, and what stands before it; plain values, for a checkpoint."""

    size: int
    """Bytes."""
    digest: str
    """Of these bytes."""


class JsonlFile:
    """One JSON object per line. Floats are exact; NaN and infinities are written as Python's `json` reads them.

    A line is one `write`, so a killed process leaves whole lines.

    Args:
        path: the file; it and its folder are made with the first line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(_line(record).encode())

    def read(self) -> list[dict[str, Any]]:
        """All records; an unfinished last line is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def touch(self) -> None:
        """Be there, if without a line: a file that is missing tells less than one that is empty."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not wanted."""
        records = self.read()
        kept = [record for record in records if wanted(record)]
        if len(kept) < len(records):
            partial = self.path.with_name(self.path.name + ".tmp")
            partial.write_text("".join(map(_line, kept)), encoding="utf-8")
            os.replace(partial, self.path)

    def mark(self) -> Mark:
        """The file's end; all of it is on disk when this returns."""
        content = b""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
                content = file.read()
        return {"size": len(content), "digest": sha256(content).hexdigest()}

    def cut(self, mark: Mark) -> bool:
        """Go back to `mark`.

        If another run's lines stand here, they are kept beside the file, with `.old` behind its name; the run's own
        are looked for there.

        Returns:
            Whether the lines before `mark` were found; if not, the file begins anew.
        """
        if not mark["size"]:
            self.start_over()
        elif _begins_with(self.path, mark):
            os.truncate(self.path, mark["size"])
        elif _begins_with(self._old, mark):
            partial = self.path.with_name(self.path.name + ".tmp")
            partial.write_bytes(self._old.read_bytes()[: mark["size"]])
            self.start_over()
            os.replace(partial, self.path)
        else:
            self.start_over()
            return False
        return True

    def start_over(self) -> None:
        """Begin anew; the lines of an earlier run stay beside the file, with `.old` behind its name."""
        if self.path.exists() and self.path.stat().st_size:
            os.replace(self.path, self._old)

    @property
    def _old(self) -> Path:
        return self.path.with_name(self.path.name + ".old")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _begins_with(path: Path, mark: Mark) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return sha256(file.read(mark["size"])).hexdigest() == mark["digest"]
