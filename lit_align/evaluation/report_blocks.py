"""What a report consists of, before it is a page: cards, tables, figures, samples, alarms and texts in sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from lit_align.evaluation.figure_specs import Spec
from lit_align.evaluation.series import is_number

_LONG, _BRIEF = 30, 10
"""Rows from which on a table is shown in part, and of how many."""


class Share(float):
    """A share of 1, which people read in percent."""


Cell: TypeAlias = "str | float | int | bool | None"


class Headline(NamedTuple):
    """One number that a page begins with: of before and after, or with an interval."""

    name: str
    before: str
    """Empty, where there is nothing before."""
    after: str
    unit: str
    """Stands after both; empty for shares, which have their sign."""
    note: str
    shares: tuple[float, ...]
    """Both as shares of 1; empty where they are something else."""
    values: tuple[Any, Any]
    """Both as they were given."""
    interval: tuple[float, float] | None = None
    """Between what it lies, 95 %."""
    between: str = ""
    """The same as people read it."""
    chance: float | None = None
    """What the number would be if nothing were known."""
    series: str = ""
    """Whose number it is: a name that figures may have a colour for."""


class Cards(NamedTuple):
    """Numbers that a page begins with."""

    labels: tuple[str, str]
    lines: list[Headline]
    title: str = ""
    """What they are of, where a page has several."""
    note: str = ""


class ShownCell(NamedTuple):
    """A cell as people read it."""

    text: str
    more: str = ""
    """In smaller letters beside it."""


class ShownTable(NamedTuple):
    """A table as people read it."""

    columns: list[str]
    numeric: list[bool]
    rows: list[list[ShownCell]]


class Table(NamedTuple):
    """Rows of words and numbers."""

    id: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    folded: bool = False
    brief: list[int] | None = None
    """Places of the rows that are shown at once, where the others are shown on demand."""
    reading: ShownTable | None = None
    """How it is read, where that is not in the order and form of its rows."""

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds numbers."""
        cells = [[row[place] for row in self.rows if place < len(row)] for place in range(len(self.columns))]
        return [
            any(is_number(cell) for cell in of) and all(cell is None or is_number(cell) for cell in of) for of in cells
        ]


class Figures(NamedTuple):
    """Figures that stand side by side."""

    title: str
    note: str
    specs: list[Spec]
    small: bool = False
    """Three in a row rather than two."""
    beside: Table | None = None
    """A table of the same numbers, which stands beside the only figure."""


class Sample(NamedTuple):
    """One prompt and what was said to it."""

    prompt: str
    texts: list[str]
    scores: list[Any]
    accepted: list[Any]
    verdict: str = ""
    """Of a chosen and a rejected text, whether the scores are right, and by how much."""


class Samples(NamedTuple):
    """Texts side by side."""

    id: str
    title: str
    note: str
    columns: list[str]
    rows: list[Sample]


class AlarmNote(NamedTuple):
    """Alarms of one kind."""

    name: str
    title: str
    meaning: str
    advice: str
    seen: list[dict[str, Any]]
    """Of each run and wording: run, when, words and times."""


class Alarms(NamedTuple):
    """All alarms, and what is to be said of runs without."""

    notes: list[AlarmNote]
    quiet: list[str]


class Text(NamedTuple):
    """A text that is shown on demand."""

    title: str
    text: str


Block: TypeAlias = "Table | Figures | Samples | Alarms | Text"


class Section(NamedTuple):
    """A part of the page with a heading and a place in its table of contents."""

    id: str
    title: str
    lead: str
    blocks: list[Block]


def number(value: Any, unit: str = "") -> str:
    """A value as people read it; shares in percent, a dash where there is no number."""
    if not is_number(value):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %".replace(".0 ", " ")
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def shown(cell: Any) -> str:
    """A cell of a table as people read it."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Share):
        return number(float(cell), "%")
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float):
        return f"{cell:.4g}" if is_number(cell) else "–"
    return str(cell)


def plain(value: Any) -> Any:
    """The same for a JSON file: numbers that are none become null, what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if is_number(value) else None
    if isinstance(value, Sequence):
        return [plain(part) for part in value]
    return str(value)


def table_of(raw: Mapping[str, Any]) -> Table:
    """A table of evaluation.json.

    Raises:
        ValueError: it has no columns or rows.
    """
    columns, rows = raw.get("columns"), raw.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("no lists of columns and rows")
    title = str(raw.get("title") or raw.get("id") or "table")
    names = [str(column) for column in columns]
    # A row that is too short or too long would shift what stands under a heading.
    full = [(row + [None] * len(names))[: len(names)] for row in rows]
    given = raw.get("shown")
    shown = [place for place in given if place in range(len(full))] if isinstance(given, list) else []
    brief = shown or (list(range(_BRIEF)) if len(full) > _LONG else None)
    return Table(str(raw.get("id") or title), title, str(raw.get("note") or ""), names, full, brief=brief)
