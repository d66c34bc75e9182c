"""Special-token strings in the words of the data: marked before a template runs, so that they stay text."""

from __future__ import annotations

import json
import re
from typing import Any

from lit_align.core.errors import DataError

_PRIVATE = range(0xF0000, 0x110000)
"""The private-use planes: characters that mean nothing, but that data may hold all the same (icon fonts do)."""
_HELD = re.compile(f"[{chr(_PRIVATE[0])}-{chr(_PRIVATE[-1])}]")


class Marks:
    """Private-use characters for special-token strings, none of which the row itself holds.

    Args:
        special: the strings, longest first.
        pattern: finds any of them.
        row: everything that the template is given, as JSON values.

    Raises:
        DataError: the row leaves no characters free.
    """

    def __init__(self, special: list[str], pattern: re.Pattern[str], row: Any) -> None:
        self.special = special
        self.pattern = pattern
        held = {ord(char) for char in _HELD.findall(json.dumps(row, ensure_ascii=False, default=str))}
        size = len(special) + 1
        blocks = (range(start, start + size) for start in range(_PRIVATE[0], _PRIVATE[-1] - size, size))
        free = next((block for block in blocks if held.isdisjoint(block)), None)
        if free is None:
            raise DataError(
                "A row holds too many kinds of private-use characters to be told from special tokens.",
                value=f"{len(held)} characters from U+{_PRIVATE[0]:X} up",
                fix="Remove these characters or the row.",
            )
        self.first = free[0]
        self._marked = re.compile(f"[{chr(free[0])}-{chr(free[-1])}]+")

    def put(self, part: Any) -> Any:
        """Replaces special-token strings by as many marks, in strings and whatever holds them."""
        if isinstance(part, str):
            return self.pattern.sub(lambda m: chr(self.first + self.special.index(m[0])) * len(m[0]), part)
        if isinstance(part, dict):
            return {key: self.put(value) for key, value in part.items()}
        return [self.put(value) for value in part] if isinstance(part, list) else part

    def restore(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Undoes `put`; also says where the strings stand."""
        places: list[tuple[int, int]] = []

        def original(match: re.Match[str]) -> str:
            places.append(match.span())
            restored = ""
            while len(restored) < len(match[0]):
                restored += self.special[ord(match[0][len(restored)]) - self.first]
            return restored

        return self._marked.sub(original, text), places
