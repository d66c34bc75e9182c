"""A completion after a second prompt: the prompt in other words, or with a judgment or a context in it."""

from __future__ import annotations

from collections.abc import Callable

from lit_align.core.errors import ConfigError
from lit_align.data.canonical import CanonicalRow, Completion
from lit_align.data.shown import SYSTEM_ROLES

JUDGMENT_TEMPLATE = "\n\n[A judgment of the response that follows: {judgment}]"
"""What a judgment adds to the prompt."""
_PLACE = "{judgment}"


def check_judgment_template(template: str) -> str:
    """The template, if it has a place for the judgment.

    Raises:
        ConfigError: it has none.
    """
    if _PLACE not in template:
        raise ConfigError(
            "The template of judgments has no place for the judgment.",
            got=f"data.judgment_template: {template!r}",
            fix=f"Write {_PLACE} where the judgment is to stand.",
        )
    return template


def reword(prompt: Completion, change: Callable[[str], str]) -> Completion:
    """The prompt with other words: those of a plain text, or those of the user's last turn."""
    if isinstance(prompt, str):
        return change(prompt)
    last = max(index for index, turn in enumerate(prompt) if turn["role"] == "user")
    return [*prompt[:last], {**prompt[last], "content": change(prompt[last]["content"])}, *prompt[last + 1 :]]


def put_before(prompt: Completion, context: str) -> Completion:
    """The prompt with a context before it: before a plain text, or as a system turn, or first in the one there is."""
    if isinstance(prompt, str):
        return context + prompt
    first, *rest = prompt
    if first["role"] not in SYSTEM_ROLES:
        return [{"role": "system", "content": context}, *prompt]
    return [{**first, "content": f"{context}\n\n{first['content']}"}, *rest]


def state_judgment(row: CanonicalRow, template: str) -> CanonicalRow:
    """The row with a second prompt that ends with its judgment; as it is where it has none."""
    if row.judgment is None:
        return row
    # Not `format`: a judgment or a template may hold other braces.
    addition = template.replace(_PLACE, row.judgment)
    return row._replace(second_prompt=reword(row.prompt, lambda words: words + addition))
