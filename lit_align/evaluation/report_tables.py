"""Tables as people read them: estimates and their intervals in one cell, numbers of a column with the same digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lit_align.evaluation.report_blocks import ShownCell, ShownTable, Table, shown
from lit_align.evaluation.series import is_number

_DIGITS, _DECIMALS = 4, 3
"""Of the greatest number of a column: significant digits, and at most so many behind the point."""


def reading(table: Table) -> ShownTable:
    """What a page shows of a table.

    A column that is followed by its `low` and its `high` is one column of estimates and intervals.
    """
    if table.reading is not None:
        return table.reading
    columns: list[str] = []
    numeric: list[bool] = []
    cells: list[list[ShownCell]] = []
    place = 0
    while place < len(table.columns):
        width = 3 if _has_interval(table, place) else 1
        columns.append(table.columns[place])
        numeric.append(table.numeric[place])
        parts = [[row[place + further] for row in table.rows] for further in range(width)]
        texts = _texts(parts)
        cells.append([_cell([part[row] for part in texts]) for row in range(len(table.rows))])
        place += width
    return ShownTable(columns, numeric, [list(row) for row in zip(*cells, strict=True)])


def _has_interval(table: Table, place: int) -> bool:
    names, numeric = table.columns[place + 1 : place + 3], table.numeric[place : place + 3]
    if len(names) < 2 or not all(numeric):
        return False
    low, high = names
    return low.endswith("low") and high.endswith("high") and low.removesuffix("low") == high.removesuffix("high")


def _cell(texts: Sequence[str]) -> ShownCell:
    estimate, *ends = texts
    return ShownCell(estimate, f"[{ends[0]}, {ends[1]}]" if ends and ends[0] != "–" else "")


def _texts(parts: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Columns that belong together, with as many digits behind the point in all cells."""
    values = [cell for part in parts for cell in part if cell is not None]
    # Whole numbers are counts, and shares have a sign.
    if not all(type(value) is float and is_number(value) for value in values) or not values:
        return [[shown(cell) for cell in part] for part in parts]
    size = max(map(abs, values))
    digits = _DIGITS - 1 - (math.floor(math.log10(size)) if size else 0)
    digits = 0 if all(value.is_integer() for value in values) else max(0, min(_DECIMALS, digits))
    if any(value and abs(value) < 0.5 * 10**-digits for value in values):
        return [[shown(cell) for cell in part] for part in parts]
    return [[f"{cell:.{digits}f}" if is_number(cell) else shown(cell) for cell in part] for part in parts]
