"""Two responses in one text, for those who judge which of them is better with both in sight."""

from __future__ import annotations

import json

from lit_align.data.canonical import Completion, Message


def render_comparison(prompt: Completion, first: Completion, second: Completion) -> str:
    """A prompt and two responses to it as one text, which ends with the second response.

    Args:
        prompt: text, or turns, which become lines "role: text".
        first: stands first, as response A.
        second: stands second, as response B.
    """
    return render_context(prompt) + render_responses(first, second)


def render_context(prompt: Completion) -> str:
    """The part of a comparison before the responses."""
    return f"[CONTEXT]\n{prompt if isinstance(prompt, str) else _dialogue(prompt)}"


def render_responses(first: Completion, second: Completion) -> str:
    """The part of a comparison behind the context."""
    return f"\n\n[RESPONSE A]\n{_response(first)}\n\n[RESPONSE B]\n{_response(second)}"


def _response(response: Completion) -> str:
    if isinstance(response, str):
        return response
    return _words(response[0]) if len(response) == 1 else _dialogue(response)


def _dialogue(turns: list[Message]) -> str:
    return "\n".join(f"{turn['role']}: {_words(turn)}" for turn in turns)


def _words(turn: Message) -> str:
    """What a turn says, calls of tools included."""
    calls = turn.get("tool_calls")
    said = str(turn.get("content") or "")
    return said if not calls else f"{said}\n{json.dumps(calls, ensure_ascii=False)}".lstrip("\n")
