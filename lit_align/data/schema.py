"""From the columns of a file to canonical rows: what format is this, and what does a row of it mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_align.core.batch import DataKind
from lit_align.data.canonical import CanonicalRow, Dropped, Format, Message, Rules

__all__ = ["CanonicalRow", "Dropped", "Format", "Message", "Rules", "normalise", "recognise"]


def recognise(
    columns: Sequence[str],
    first_rows: Sequence[Mapping[str, Any]],
    *,
    mapping: Mapping[str, str | None] | None = None,
    file: str = "",
    wanted: DataKind | None = None,
    name: str | None = None,
) -> Format:
    """Tell the format of a file from its columns and first rows."""
    raise NotImplementedError


def normalise(
    row: Mapping[str, Any],
    fmt: Format,
    mapping: Mapping[str, str | None] | None = None,
    file: str = "",
    row_number: int = 0,
    rules: Rules = Rules(),
) -> CanonicalRow | Dropped:
    """Turn one row of a recognised file into a canonical row."""
    raise NotImplementedError
