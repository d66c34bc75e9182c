"""From a canonical row to the texts that a model sees, with the stretches that are to be learnt.

A conversation goes through the chat template whole, prompt and completion together; where the completion starts
is where the template's own rendering of the prompt (`add_generation_prompt=True`) ends, which is verified to be a
prefix. Strings like "</s>" in the words of the data are found and marked, so that they stay text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import CanonicalRow, Message
from lit_align.data.comparison import render_context, render_responses
from lit_align.data.marks import Marks
from lit_align.data.shown import SYSTEM_ROLES, check_calls, check_shown


class Span(NamedTuple):
    """A stretch of a text that is learnt, in characters."""

    start: int
    words_end: int
    """Where the words of the data end and what the template adds begins."""
    end: int
    """Where the turn ends, without white space that the template adds."""


class Rendered(NamedTuple):
    """A text and what is learnt of it."""

    text: str
    spans: list[Span]
    """At least one unless the text is only a prompt; the text ends with the last one."""
    prompt: str
    """What a model would be prompted with to write the completion."""
    templated: bool
    """Whether a chat template wrote it: then it holds its own BOS, and nothing is added in front."""
    verified: bool = True
    """Whether `prompt` is a prefix of `text`; if not, the completion starts where its words start."""
    literal: list[tuple[int, int]] = []  # noqa: RUF012 - never mutated
    """Special-token strings in the words of the data, to be encoded as text."""
    verbatim: bool = False
    """Whether all such strings are to be encoded as text."""


class Renderer:
    """Renders rows for one tokenizer.

    Args:
        tokenizer: gives the special tokens and runs the template.
        chat_template: Jinja source; None where the data hold no conversations.
        system_prompt: put before conversations that have no system turn.
        chat_template_kwargs: arguments of the template; those of a row come on top.
        train_on: which turns of a multi-turn demonstration are learnt.
        as_chat: turn plain prompts and completions into a user's and an assistant's turn.
        separator: stands between a plain prompt and its completion; belongs to the prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        train_on: Literal["last", "all"] = "all",
        as_chat: bool = False,
        separator: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.system_prompt = system_prompt
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.train_on = train_on
        self.as_chat = as_chat
        self.separator = separator
        added = tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        self.special = sorted((name for name in names if name.strip()), key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")

    def responses(self, row: CanonicalRow) -> list[Rendered]:
        """The texts of a row, one per completion.

        Raises:
            DataError: the template refuses the conversation, or does not show a part of it.
            ConfigError: a conversation without a template, or a system prompt that is not shown.
        """
        if row.messages is not None:
            turns = _turns(row.messages, 0)
            chosen = turns[-1:] if self.train_on == "last" else turns
            return [self._conversation(row, row.messages, chosen)]
        if row.text is not None:
            self._refuse_system_prompt()
            return [Rendered(row.text, [Span(0, len(row.text), len(row.text))], "", templated=False)]
        if self._is_plain(row):
            return [self._plain(str(row.prompt), str(completion)) for completion in row.completions]
        prompt = _as_messages(row.prompt, "user")
        rendered = []
        for completion in row.completions:
            messages = prompt + _as_messages(completion, "assistant")
            rendered.append(self._conversation(row, messages, _turns(messages, len(prompt))))
        return rendered

    def prompt(self, row: CanonicalRow) -> Rendered:
        """The text that a model is prompted with for this row, whatever kind of row it is."""
        if row.messages is not None:
            messages = row.messages[: _turns(row.messages, 0)[-1]]
        elif row.text is not None or self._is_plain(row):
            self._refuse_system_prompt()
            text = row.text if row.text is not None else str(row.prompt) + self.separator
            return Rendered(text, [], text, templated=False)
        else:
            messages = _as_messages(row.prompt, "user")
        prepared, marks = self._prepare(row, messages)
        marked = self._render(row, prepared, generation_prompt=True)
        self._check_shown(row, messages, prepared, marked)
        text, literal = marks.restore(marked)
        return Rendered(text, [], text, templated=True, literal=literal)

    def comparison(self, row: CanonicalRow) -> list[Rendered]:
        """A pair as two texts: the chosen response stands first in one, and second in the other.

        No chat template writes them: what comes before the responses counts as the prompt.
        """
        chosen, rejected = (row.completions[index] for index in row.pairs[0])
        prompt = _as_messages(row.prompt, "user") if self.as_chat else row.prompt
        if isinstance(prompt, str):
            self._refuse_system_prompt()
        elif self._adds_system_prompt(prompt):
            prompt = [{"role": "system", "content": self.system_prompt}, *prompt]
        context = render_context(prompt)
        if row.tools is not None:
            context += f"\ntools: {json.dumps(row.tools, ensure_ascii=False)}"
        rendered = []
        for first, second in ((chosen, rejected), (rejected, chosen)):
            text = context + render_responses(first, second)
            spans = [Span(len(context), len(text), len(text))]
            rendered.append(Rendered(text, spans, "", templated=False, verbatim=True))
        return rendered

    # ---------------------------------------------------------------- plain text

    def _is_plain(self, row: CanonicalRow) -> bool:
        return not self.as_chat and isinstance(row.prompt, str) and all(isinstance(c, str) for c in row.completions)

    def _plain(self, prompt: str, completion: str) -> Rendered:
        self._refuse_system_prompt()
        prompt += self.separator
        text = prompt + completion
        return Rendered(text, [Span(len(prompt), len(text), len(text))], prompt, templated=False)

    def _refuse_system_prompt(self) -> None:
        if self.system_prompt is not None:
            raise ConfigError(
                "A system prompt needs conversations, and these data are plain text.",
                got=f"data.system_prompt: {self.system_prompt!r}",
                fix="Set data.as_chat: true to turn plain prompts and completions into turns, or remove it.",
            )

    # ---------------------------------------------------------------- conversations

    def _conversation(self, row: CanonicalRow, messages: list[Message], turns: Sequence[int]) -> Rendered:
        """Renders messages once, and finds the turns that are learnt in it."""
        prepared, marks = self._prepare(row, messages)
        shift = len(prepared) - len(messages)
        text = self._render(row, prepared)
        self._check_shown(row, messages, prepared, text)
        spans: list[Span] = []
        verified, prompt, position = True, "", 0
        for turn in (number + shift for number in turns):
            span, opening = self._find_turn(row, prepared, turn, text, position)
            check_calls(text[span.start : span.end], prepared[turn], row.row)
            verified = verified and opening is not None
            prompt = prompt if spans else opening or text[: span.start]
            spans.append(span)
            position = span.end
        text, literal = marks.restore(text[: spans[-1].end])
        prompt, _ = marks.restore(prompt)
        return Rendered(text, spans, prompt, templated=True, verified=verified, literal=literal)

    def _find_turn(
        self, row: CanonicalRow, messages: list[Message], turn: int, text: str, position: int
    ) -> tuple[Span, str | None]:
        """Finds an assistant's turn in the rendered text; also the rendered prompt, if it is a prefix of it."""
        words = str(messages[turn].get("content") or "")
        opening = self._prefix(row, messages[:turn], text, generation_prompt=True)
        start = len(opening) if opening is not None else _find(text, words, position)[0]
        words_end = _find(text, words, max(start, position))[1]
        hidden = words.strip() and words_end is None and not messages[turn].get("tool_calls")
        if start < position or hidden:
            raise DataError(
                "The chat template does not show a completion as it was written.",
                row=row.row,
                value=words,
                fix="Check the template with `lit-align preview`, or give another one as data.chat_template.",
            )
        words_end = start if words_end is None else words_end
        return Span(start, words_end, self._end_of_turn(row, messages, turn, text, words_end)), opening

    def _end_of_turn(self, row: CanonicalRow, messages: list[Message], turn: int, text: str, words_end: int) -> int:
        """Where what the template writes behind the words ends; white space at the end is not part of the turn."""
        closing = text if turn == len(messages) - 1 else self._prefix(row, messages[: turn + 1], text)
        if closing is not None:
            return max(len(closing.rstrip()), words_end)
        # The template writes the last turn of a conversation in another way than this one.
        token = self._special_pattern.match(text, words_end)
        return words_end if token is None else token.end()

    def _prefix(
        self, row: CanonicalRow, messages: list[Message], text: str, *, generation_prompt: bool = False
    ) -> str | None:
        """The template's rendering of the first messages, if the text starts with it."""
        if not messages:
            return None
        try:
            opening = self._render(row, messages, generation_prompt=generation_prompt)
        except DataError:
            # Some templates refuse a conversation that stops here, though they accept the whole.
            return None
        return opening if text.startswith(opening) else None

    def _render(self, row: CanonicalRow, messages: list[Message], *, generation_prompt: bool = False) -> str:
        if self.chat_template is None:
            raise ConfigError(
                "The data are conversations, and the tokenizer has no chat template.",
                got=f"tokenizer {self.tokenizer.name_or_path!r}",
                fix="Set data.chat_template: chatml, transcript, or a Jinja file; or use a chat model's tokenizer.",
            )
        arguments = {**self.chat_template_kwargs, **(row.chat_template_kwargs or {})}
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=row.tools,
                chat_template=self.chat_template,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"The chat template refuses this conversation: {error}",
                row=row.row,
                value=[message.get("role") for message in messages],
                fix="Change the row's turns, or give another template as data.chat_template.",
            ) from error
        return str(text)

    def _prepare(self, row: CanonicalRow, messages: list[Message]) -> tuple[list[Message], Marks]:
        """Messages with the system prompt, and with special-token strings marked."""
        if self._adds_system_prompt(messages):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        given = [messages, row.tools, row.chat_template_kwargs, self.chat_template_kwargs, self.chat_template]
        marks = Marks(self.special, self._special_pattern, given)
        prepared = [{key: part if key == "role" else marks.put(part) for key, part in m.items()} for m in messages]
        return prepared, marks

    def _adds_system_prompt(self, messages: list[Message]) -> bool:
        return self.system_prompt is not None and messages[0]["role"] not in SYSTEM_ROLES

    def _check_shown(self, row: CanonicalRow, messages: list[Message], prepared: list[Message], text: str) -> None:
        setting = self.system_prompt if self._adds_system_prompt(messages) else None
        check_shown(text, prepared, row.tools, row.row, system_setting=setting)


def group_key(row: CanonicalRow) -> str:
    """What a split must not separate: the prompt, or the whole text where there is none."""
    if row.messages is not None:
        return json.dumps(row.messages[: _turns(row.messages, 0)[0]] or row.messages, sort_keys=True)
    return row.text if row.text is not None else json.dumps(row.prompt, sort_keys=True)


def _find(text: str, words: str, position: int) -> tuple[int, int | None]:
    """Where words stand in a text after a position: as they are, trimmed, or at least their end.

    Many templates trim; some write what stands before an answer, its reasoning, in another way.

    Returns:
        Their start, -1 where they are not found whole, and their end, None where not even that is found.
    """
    for version in (words, words.strip()):
        start = text.find(version, position)
        if version and start >= 0:
            return start, start + len(version)
    last_line = words.strip().rpartition("\n")[2].strip()
    for ending in (last_line, last_line[-3:]):
        place = text.find(ending, position)
        if ending and place >= 0:
            return -1, place + len(ending)
    return -1, None


def _turns(messages: Sequence[Message], first: int) -> list[int]:
    """The assistant's turns from message `first` on."""
    return [number for number, message in enumerate(messages) if number >= first and message["role"] == "assistant"]


def _as_messages(part: str | list[Message], role: str) -> list[Message]:
    return [{"role": role, "content": part}] if isinstance(part, str) else part
