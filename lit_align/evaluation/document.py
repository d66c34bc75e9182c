"""What an evaluation says: tables, figures and samples as data, for evaluation.json, Markdown and the terminal.

`lit-align report` draws the figures; every number that it draws is in the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_align import __version__
from lit_align.evaluation.compare_data import write_whole
from lit_align.evaluation.intervals import Interval

Cell = str | float | int | None
Values = Sequence[float]
_DIGITS = 6
"""Of values in figures."""
_WIDEST = 44
"""Characters of a cell in the terminal."""


class Document:
    """Grows by tables and figures; their order is that of the page.

    Args:
        kind: rewards, policies, or ranking.
        title: heading of the page.
        seed: of everything that was drawn at random.
    """

    def __init__(self, kind: str, title: str, seed: int) -> None:
        self.kind, self.title, self.seed = kind, title, seed
        self.about = ""
        self.labels: list[str] = []
        self.headlines: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []
        self.figures: list[dict[str, Any]] = []
        self.samples: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    def headline(self, name: str, estimate: Interval, unit: str = "", note: str = "", **keys: Any) -> None:
        """Add a number that a page begins with.

        Args:
            name: what it is.
            estimate: the number, and the ends of its 95 % interval.
            unit: `%` for shares of 1.
            note: what else is to be known at once.
            **keys: `chance`, what the number would be if nothing were known; `series`, whose number it is.
        """
        line = {"name": name, "unit": unit, "after": estimate.mean, "interval": [estimate.low, estimate.high]}
        self.headlines.append(line | {"note": note} | keys)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        note: str = "",
        shown: Sequence[int] = (),
    ) -> None:
        """Add a table; without rows there is none.

        Args:
            title: its heading.
            columns: names.
            rows: a cell for each column.
            note: what is to be known to read it.
            shown: places of the rows that a page shows at once, where the others are shown on demand.
        """
        if rows:
            assert all(len(row) == len(columns) for row in rows), "a row has a cell for each column"
            names = [str(name) for name in columns]
            entry = {"id": slug(title), "title": title, "note": note, "columns": names, "rows": [list(r) for r in rows]}
            self.tables.append(entry | ({"shown": list(shown)} if 0 < len(shown) < len(rows) else {}))

    def figure(self, kind: str, title: str, note: str = "", **keys: Any) -> None:
        """Add a figure; see `lit-align report` for the kinds and their keys."""
        entry = {"id": slug(title), "title": title, "note": note, "kind": kind}
        self.figures.append(entry | {name: _rounded(value) for name, value in keys.items()})

    def sample(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], note: str = "") -> None:
        """Set the texts that stand side by side: rows with `prompt`, `texts` and `scores`."""
        self.samples = {"note": note, "columns": list(columns), "rows": [dict(row) for row in rows]}

    def as_json(self) -> dict[str, Any]:
        """The content of evaluation.json; what is not finite is null."""
        content = {
            "kind": self.kind,
            "title": self.title,
            "about": self.about,
            "labels": self.labels,
            "seed": self.seed,
            "version": __version__,
            "headline": self.headlines,
            "summary": self.summary,
            "tables": self.tables,
            "figures": self.figures,
        }
        return dict(_finite(content | ({"samples": self.samples} if self.samples else {})))

    def as_markdown(self) -> str:
        """All tables, each with its note."""
        parts = [f"# {self.title}", self.about]
        for table in self.tables:
            lines = [f"| {' | '.join(map(_escaped, table['columns']))} |", "|" + "---|" * len(table["columns"])]
            lines += [f"| {' | '.join(_escaped(cell_text(cell)) for cell in row)} |" for row in table["rows"]]
            parts += [f"## {table['title']}", "\n".join(lines), table["note"]]
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write evaluation.json and evaluation.md."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "evaluation.json", folder / "evaluation.md"]
        write_whole(files[0], json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False))
        write_whole(files[1], self.as_markdown())
        return files


def cells(interval: Interval) -> list[Cell]:
    """A mean and the ends of its interval."""
    return [interval.mean, interval.low, interval.high]


def cell_text(cell: Cell) -> str:
    """A cell as people read it; a dash where there is nothing."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"
    if isinstance(cell, float):
        size = abs(cell)
        digits = 1 if size >= 100 else 2 if size >= 10 else 3
        return f"{cell:,.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def table_text(table: Mapping[str, Any]) -> str:
    """A table for the terminal."""
    rows = [[_cut(cell_text(cell)) for cell in row] for row in table["rows"]]
    widths = [max(map(len, column)) for column in zip(table["columns"], *rows, strict=True)]
    numeric = [all(not isinstance(row[index], str) for row in table["rows"]) for index in range(len(widths))]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        ).rstrip()

    head = line(table["columns"])
    return "\n".join([table["title"], head, "-" * len(head), *map(line, rows)])


def slug(title: str) -> str:
    """A title as an identifier."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def common_range(*series: Values) -> list[float]:
    """From the smallest to the largest value of all series: edges that histograms have in common."""
    values = [value for one in series for value in one]
    low, high = min(values), max(values)
    return [low, high] if high > low else [low - 0.5, high + 0.5]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rounded(value: Any) -> Any:
    """The same with plain numbers of few digits."""
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
