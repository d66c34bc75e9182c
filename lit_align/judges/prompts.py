"""What language models are asked when they judge: the default wording, and what is put into it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.rollouts.engine import Prompt

PAIR_TEMPLATE = """\
Compare two replies to the same request. First decide what the request needs. Then judge correctness, usefulness, \
completeness for that need, clarity and safety. Order and length carry no weight by themselves; a longer reply is \
better only if the extra content is needed.

[REQUEST]
{prompt}
[END OF REQUEST]

[REPLY A]
{first}
[END OF REPLY A]

[REPLY B]
{second}
[END OF REPLY B]

{task}"""
"""For two responses; `{task}` is one of the two below."""

PAIR_VERDICT_TASK = (
    "Give your reasons in two or three sentences. Then write the verdict alone on the last line: [[A]] if reply A is "
    "better, [[B]] if reply B is better, [[C]] if neither is."
)
PAIR_LETTER_TASK = "Which reply is better? Answer with one letter, A or B."

SCORE_TEMPLATE = """\
Judge the reply to a request: how correct, useful, complete, clear and safe it is for what the request needs. \
Length by itself carries no weight.

[REQUEST]
{prompt}
[END OF REQUEST]

[REPLY]
{response}
[END OF REPLY]

{task}"""
"""For one response; `{task}` is one of the two below."""

SCORE_REASON_TASK = (
    "Give your reasons in at most 80 words. Then end with one line exactly of the form   Score: N   where N is from "
    "{low} (worst) to {high} (best)."
)
SCORE_TASK = "Answer with one line exactly of the form   Score: N   where N is from {low} (worst) to {high} (best)."

ADDITIVE_TEMPLATE = """\
Grade one answer. Start from 0 and add one point per level; a level counts only if all lower levels are met.
  1 - on topic: gives at least something the user can use, even if partial or mixed with noise
  2 - covers a good share of the request but leaves it unresolved or does not answer directly
  3 - answers the essential parts usefully, whatever its style or origin
  4 - written as an assistant's direct, complete and well organised reply; only small gains in clarity, brevity or \
focus remain
  5 - fitted to this user and question, nothing superfluous, expert level and engaging

[QUESTION]
{prompt}
[END OF QUESTION]

[ANSWER]
{response}
[END OF ANSWER]

{task}"""
"""The additive scale of Self-Rewarding Language Models, in words of our own."""

REFERENCE = "\n\n[CORRECT ANSWER, FOR COMPARISON]\n{reference}\n[END OF CORRECT ANSWER]"
"""Behind the request, where the data have an answer that is known to be right."""

_FIELD = re.compile(r"\{(\w+)\}")
_MARK = re.compile(r"(?m)^[^\w\s{][^{}\n]*$")
_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}


def fill(template: str, **values: Any) -> str:
    """A template with its fields filled in; braces in the values stay as they are."""
    return _FIELD.sub(lambda match: str(values[match[1]]) if match[1] in values else match[0], template)


def check_template(template: str, needed: Collection[str]) -> str:
    """The template, if it has all its fields.

    Raises:
        ConfigError: one is missing.
    """
    missing = [name for name in needed if f"{{{name}}}" not in template]
    if missing:
        raise ConfigError(
            "a judge's template must show what is to be judged",
            got=f"template without {', '.join(f'{{{name}}}' for name in missing)}",
            fix=f"write {', '.join(f'{{{name}}}' for name in needed)} where these are to stand",
        )
    return template


def as_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: a conversation of one turn as its words, one of several with their speakers."""
    if isinstance(prompt, str):
        return prompt
    turns: list[Any] = list(prompt)
    if not all(isinstance(turn, dict) for turn in turns):
        raise ConfigError("a judge reads texts or conversations", got="token ids", fix="give the prompt's text")
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{_SPEAKERS.get(turn['role'], turn['role'])}: {turn['content']}" for turn in turns)


def with_reference(prompt: str, reference: Any) -> str:
    """The request, and behind it an answer that is known to be right."""
    return prompt + fill(REFERENCE, reference=reference)


def marks(template: str) -> list[str]:
    """What a template sets its parts apart by: its lines that begin with a sign, as [END OF REPLY] and ### Reply do."""
    found = _MARK.findall(template + REFERENCE)
    return [mark.strip().lower() for mark in found if any(letter.isalpha() for letter in mark)]


def without_lines(text: str, pattern: re.Pattern[str], template: str = "") -> tuple[str, int]:
    """A response without what would read like another's words, and how many lines these were.

    Args:
        text: the response.
        pattern: of a line like the judge's own verdict.
        template: of the question; a line with one of its marks would end the response before its end.
    """
    lines, forbidden = text.split("\n"), marks(template)
    kept = [line for line in lines if not (pattern.search(line) or any(mark in line.lower() for mark in forbidden))]
    return "\n".join(kept), len(lines) - len(kept)
