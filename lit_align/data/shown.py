"""Checks that a chat template shows what it was given: many pass over tools, tool calls or the system prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import Message

SYSTEM_ROLES = ("system", "developer")


def check_shown(
    text: str, messages: Sequence[Message], tools: Sequence[Any] | None, row: int, *, system_setting: str | None = None
) -> None:
    """Looks for each system text, each tool's name and each called function's name in a rendered text.

    Args:
        text: what the template wrote.
        messages: the turns that it was given.
        tools: the tool descriptions that it was given.
        row: for errors.
        system_setting: `data.system_prompt`, where the first turn is made of it.

    Raises:
        ConfigError: `data.system_prompt` is missing in the text.
        DataError: something of the row is missing in the text.
    """
    for number, message in enumerate(messages):
        if message["role"] in SYSTEM_ROLES and not _holds(text, str(message.get("content") or "")):
            if system_setting is not None and number == 0:
                raise ConfigError(
                    "The chat template does not show the system prompt.",
                    got=f"data.system_prompt: {system_setting!r}",
                    fix="Give a template that shows it as data.chat_template, or remove data.system_prompt.",
                )
            raise _missing("a system turn", row, "system", message["content"])
        check_calls(text, message, row)
    for name in _names(tools):
        if name not in text:
            raise _missing("a tool", row, "tools", name, " To learn without tools, set data.columns: {tools: null}.")


def check_calls(text: str, message: Message, row: int) -> None:
    """Looks for the names of the functions that a turn calls in its text, or in that of the whole conversation.

    Raises:
        DataError: one is missing.
    """
    for name in _names(message.get("tool_calls")):
        if name not in text:
            raise _missing("a tool call", row, "tool_calls", name)


def _holds(text: str, words: str) -> bool:
    """Whether the text shows any line of the words; templates trim, and some rewrite a line that sets an option."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return not lines or any(line in text for line in lines)


def _names(functions: Any) -> Iterator[str]:
    """Names in tool descriptions or tool calls, which stand at the top or under `function`."""
    for function in functions if isinstance(functions, list) else []:
        inner = function.get("function", function) if isinstance(function, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        if isinstance(name, str):
            yield name


def _missing(what: str, row: int, field: str, value: Any, hint: str = "") -> DataError:
    return DataError(
        f"The chat template does not show {what}, so it would be lost.",
        row=row,
        field=field,
        value=value,
        fix=f"Give a template that shows it as data.chat_template; see it with `lit-align preview`.{hint}",
    )
