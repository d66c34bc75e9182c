"""Guesses which columns of a file are meant by ours, from the names that others give: for messages, never acted on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT_NAMES = ("question", "query", "instruction", "input", "problem", "user")
_COMPLETION_NAMES = ("response", "answer", "output", "reply", "solution", "target")
_CHOSEN_WORDS = frozenset(("chosen", "preferred", "better", "winner", "accepted"))
_REJECTED_WORDS = frozenset(("rejected", "reject", "dispreferred", "worse", "loser"))


def suggest_mapping(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Our names of columns that a file seems to have under others, as `data.columns` takes them.

    Args:
        columns: the file's columns.
        rows: some rows: of several columns that are named after one thing, the longest text is meant.

    Returns:
        Names for what is missing of a pair, or else of a prompt and its completion; empty where too little is found.
    """
    candidates = {
        "prompt": [column for column in columns if column.lower() in PROMPT_NAMES],
        "chosen": [column for column in columns if _words(column) & _CHOSEN_WORDS],
        "rejected": [column for column in columns if _words(column) & _REJECTED_WORDS],
        "completion": [column for column in columns if column.lower() in _COMPLETION_NAMES],
    }
    found = {
        name: name if name in columns else max(named, key=lambda column: _length(column, rows))
        for name, named in candidates.items()
        if named or name in columns
    }
    for form in (("prompt", "chosen", "rejected"), ("prompt", "completion")):
        if all(name in found for name in form):
            return {name: found[name] for name in form if name != found[name]}
    return {}


def in_words(mapping: Mapping[str, str | None]) -> str:
    """A mapping as it is written in a command."""
    pairs = ", ".join(f"{name}: {'null' if column is None else column}" for name, column in mapping.items())
    return f"data.columns={{{pairs}}}"


def _words(column: str) -> set[str]:
    return set(re.findall(r"[a-z]+", column.lower()))


def _length(column: str, rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(str(row.get(column, ""))) for row in rows)
