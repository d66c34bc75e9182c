"""Small helpers for files and settings that need no library."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_whole(file: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    draft = file.with_name(f"{file.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)


def flat(settings: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names and values of nested settings; lists are values."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, settings
