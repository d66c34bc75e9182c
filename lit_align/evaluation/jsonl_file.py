"""A file of JSON lines that grows by whole lines and can be cut back to an earlier length."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def read(self) -> list[dict[str, Any]]:
        """All records; an unfinished last line is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def size(self) -> int:
        """Length in bytes; all of it is on disk when this returns."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Keep the whole lines among the first `size` bytes."""
        if self.path.exists():
            with self.path.open("rb") as file:
                end = file.read(size).rfind(b"\n") + 1
            os.truncate(self.path, end)

    def start_over(self) -> None:
        """Begin anew; the lines of an earlier run stay beside the file, with `.old` behind its name."""
        if self.path.exists():
            os.replace(self.path, self.path.with_name(self.path.name + ".old"))
