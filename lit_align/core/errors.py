"""Errors in three parts: what is wrong, what was found where, and what to do about it."""

from __future__ import annotations

from typing import Any

_LONGEST_VALUE = 120


def shorten(value: Any) -> str:
    """A value as it should stand in a message: its repr, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


class AlignError(Exception):
    """Base of the errors that a user can mend.

    Args:
        what: what is wrong, one sentence.
        got: the value or situation that was found.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, got: str = "", fix: str = "") -> None:
        self.what, self.got, self.fix = what, got, fix
        lines = [what]
        if got:
            lines.append(f"  got: {got}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class ConfigError(AlignError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(AlignError, ValueError):
    """A file, row or field that cannot be trained on.

    Args:
        what: what is wrong, one sentence.
        file: path or name of the data.
        row: 1-based row (for line-based files, the line) in that file.
        field: name of the column.
        value: what the field holds; shortened in the message.
        fix: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str = "",
        row: int | None = None,
        field: str = "",
        value: Any = None,
        fix: str = "",
    ) -> None:
        self.file, self.row, self.field, self.value = file, row, field, value
        where = [
            f"{file}" if file else "",
            f"row {row}" if row is not None else "",
            f"field '{field}'" if field else "",
        ]
        got = ", ".join(part for part in where if part)
        if value is not None:
            got = f"{got}: {shorten(value)}" if got else shorten(value)
        super().__init__(what, got=got, fix=fix)
