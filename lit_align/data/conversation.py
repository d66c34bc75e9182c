"""Conversations: reading messages and transcripts, and finding where the prompt ends."""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any

from lit_align.data.canonical import Message

if TYPE_CHECKING:
    from lit_align.data.fields import Fields

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}
_OPENING = ("system", "developer")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def parse_messages(value: Any, field: str, fields: Fields) -> list[Message]:
    """Read a list of messages, written with `role` and `content` or, as in ShareGPT, with `from` and `value`.

    Raises:
        DataError: for anything else, naming the message.
    """
    if not isinstance(value, list):
        fix = 'write a list like [{"role": "user", "content": "..."}]'
        raise fields.error("expected a list of messages", field, fix, value)
    if not value:
        raise fields.error("a conversation has no messages", field, "fill it in, or remove the row", "[]")
    return [_parse_message(message, f"{field}[{index}]", fields) for index, message in enumerate(value)]


def _parse_message(value: Any, field: str, fields: Fields) -> Message:
    if not isinstance(value, dict):
        fix = 'write an object like {"role": "user", "content": "..."}'
        raise fields.error("a message is not an object", field, fix, value)
    message = {key: part for key, part in value.items() if part is not None}
    role_key, content_key = ("from", "value") if "from" in message else ("role", "content")
    role = _parse_role(message.pop(role_key, None), role_key, field, fields, value)
    content = message.pop(content_key, None)
    if message.get("tool_calls"):
        return {"role": role, "content": content if isinstance(content, str) else "", **message}
    if value.get("from") == "function_call":
        return {"role": role, "content": "", "tool_calls": [_parse_call(content, f"{field}.value", fields)]}
    if content is None:
        fix = f"give it a '{content_key}', or remove the row"
        raise fields.error("a message has no content", f"{field}.{content_key}", fix, value)
    if isinstance(content, list):
        content = "".join(_parse_part(part, f"{field}.content[{index}]", fields) for index, part in enumerate(content))
    if content == "" and (role == "tool" or (role == "assistant" and fields.recorded)):
        return {"role": role, "content": content, **message}
    return {"role": role, "content": fields.check_text(content, f"{field}.{content_key}"), **message}


def _parse_role(role: Any, key: str, field: str, fields: Fields, message: Any) -> str:
    if role is None:
        fix = f"give it a role, one of {', '.join(ROLES)}"
        raise fields.error("a message has no role", f"{field}.{key}", fix, message)
    known = _SHAREGPT_ROLES.get(role, role) if key == "from" and isinstance(role, str) else role
    if known not in ROLES:
        close = difflib.get_close_matches(str(role).lower(), ROLES, 1)
        meant = _SHAREGPT_ROLES.get(str(role).lower()) or (close[0] if close else None)
        hint = f"did you mean '{meant}'? " if meant else ""
        fix = f"{hint}roles are {', '.join(ROLES)}"
        raise fields.error("a message has an unknown role", f"{field}.{key}", fix, role)
    return str(known)


def _parse_part(part: Any, field: str, fields: Fields) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    fix = 'keep parts like {"type": "text", "text": "..."} only: images and sounds are not supported'
    raise fields.error("a message holds something other than text", field, fix, part)


def _parse_call(value: Any, field: str, fields: Fields) -> dict[str, Any]:
    try:
        call = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        call = None
    if not isinstance(call, dict) or "name" not in call:
        fix = 'write the call as JSON: {"name": "...", "arguments": {...}}'
        raise fields.error("a function call cannot be read", field, fix, value)
    return {"type": "function", "function": call}


def check_order(messages: list[Message], field: str, fields: Fields, after: str = "nobody") -> None:
    """Refuse conversations whose turns cannot follow each other.

    A conversation may open with one system message; then a user speaks, and nobody speaks twice in a row. A
    tool answers an assistant or follows another tool.

    Args:
        messages: the turns.
        field: name of the field, for messages.
        fields: the row, for messages.
        after: role of the turn before the first of these.

    Raises:
        DataError: naming the first turn that is out of place.
    """
    previous = after
    for index, message in enumerate(messages):
        role = message["role"]
        if role in _OPENING:
            allowed = previous == "nobody"
        elif role == "user":
            allowed = previous != "user"
        elif role == "assistant":
            allowed = previous in ("user", "tool")
        else:
            allowed = previous in ("assistant", "tool")
        if not allowed:
            before = "opens the conversation" if previous == "nobody" else f"follows '{previous}'"
            fix = "order the turns as (system,) user, assistant, user, ...; join two turns of one speaker into one"
            raise fields.error(f"a turn of '{role}' {before}", f"{field}[{index}]", fix, message)
        previous = role


def check_prompt_end(messages: list[Message], field: str, fields: Fields) -> None:
    """Refuse prompts that no assistant's turn can follow.

    Raises:
        DataError: where the last turn is neither a user's nor a tool's.
    """
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        fix = "end the prompt with the user's turn; the assistant's belongs to the completion"
        shown = messages[-1] if messages else "no turn"
        raise fields.error("a prompt does not end with a turn of the user", field, fix, shown)


def check_answer(messages: list[Message], field: str, fields: Fields) -> None:
    """Refuse conversations that an assistant does not end.

    Raises:
        DataError: where the last turn is someone else's.
    """
    if messages[-1]["role"] != "assistant":
        fix = "end it with the assistant's turn, or remove the row"
        raise fields.error("a conversation does not end with a turn of the assistant", field, fix, messages[-1])


def shared_turns(chosen: list[Message], rejected: list[Message]) -> int:
    """Count the leading turns that two conversations have in common, as far as they make a prompt.

    After those turns, an assistant speaks in both. Conversations that part at an earlier turn keep everything
    from there on as their completions, of which the assistant's turns are learnt.
    """
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    while shared > 0 and not (chosen[shared]["role"] == rejected[shared]["role"] == "assistant"):
        shared -= 1
    return shared


def last_answer(messages: list[Message]) -> int:
    """Index of the last assistant's turn, before which the prompt ends."""
    return max(index for index, message in enumerate(messages) if message["role"] == "assistant")


def shared_text(chosen: str, rejected: str) -> int:
    """Length of the prompt that two plain texts have in common, never ending inside a word.

    The common prefix is cut back to the end of a line, or to the white space before a word (which then
    belongs to the completion), so that both completions keep at least a word.
    """
    limit = min(len(chosen), len(rejected)) - 1
    common = 0
    while common < limit and chosen[common] == rejected[common]:
        common += 1
    for cut in range(common, 0, -1):
        starts_word = chosen[cut].isspace() and rejected[cut].isspace() and not chosen[cut - 1].isspace()
        if not (starts_word or chosen[cut - 1] == "\n"):
            continue
        if chosen[cut:].strip() and rejected[cut:].strip():
            return cut
    return 0


def is_transcript(value: Any) -> bool:
    r"""Whether a value is a transcript as in Anthropic's HH data: "\n\nHuman: ...\n\nAssistant: ..."."""
    return isinstance(value, str) and re.match(r"\s*(Human|Assistant):", value) is not None


def parse_transcript(text: str) -> list[Message]:
    """Split a transcript into turns; turns of one speaker in a row are joined by an empty line."""
    marks = list(_TURN.finditer(text))
    messages: list[Message] = []
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        role, content = _SPEAKERS[mark.group(1)], text[mark.end() : end].strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    return messages
