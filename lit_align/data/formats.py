"""The formats that lit-align reads: what columns each needs, and which function reads its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lit_align.core.batch import DataKind
from lit_align.data import normalisers
from lit_align.data.canonical import CanonicalRow, Dropped
from lit_align.data.conversation import is_transcript
from lit_align.data.fields import Fields

COMMON = ("tools", "chat_template_kwargs", "id")
"""Columns that every format may have."""


class FormatSpec(NamedTuple):
    """A format: what it needs, and how its rows are read."""

    name: str
    kind: DataKind
    required: tuple[str, ...]
    """Column names; `a|b` stands for either."""
    normalise: Callable[[Fields, bool], CanonicalRow | Dropped]
    bodies: tuple[str, ...] = ()
    """Columns whose type (text or messages) decides whether the format is conversational."""
    optional: tuple[str, ...] = ()
    always_conversational: bool = False
    recorded: bool = False
    """Responses were recorded from models: an empty one is left out and counted, not an error."""
    fits: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None
    """A look at the first rows, where names alone do not tell."""

    def matches(self, columns: Iterable[str], first_rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a file with these columns can be read as this format."""
        return not self.missing(columns) and (self.fits is None or self.fits(first_rows))

    def missing(self, columns: Iterable[str]) -> list[str]:
        """What the format needs and the columns do not offer."""
        return [need for need in self.required if not set(need.split("|")) & set(columns)]

    def columns(self) -> list[str]:
        """All columns that are read."""
        return [name for need in (*self.required, *self.optional, *COMMON) for name in need.split("|")]


def most(rows: Sequence[Mapping[str, Any]], test: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a test holds for most rows, so that one odd row is reported rather than followed."""
    return 2 * sum(map(test, rows)) > len(rows)


def _are_transcripts(rows: Sequence[Mapping[str, Any]]) -> bool:
    return most(rows, lambda row: is_transcript(row.get("prompt") or row.get("chosen")))


def _are_scored_objects(rows: Sequence[Mapping[str, Any]]) -> bool:
    def scored(row: Mapping[str, Any]) -> bool:
        items = row.get("completions")
        return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and "response" in items[0]

    return most(rows, scored)


_PAIR_EXTRAS = ("prompt", "margin", "ref_chosen_logps", "ref_rejected_logps")
_PAIR_SCORES = ("score_chosen", "score_rejected", "chosen_score", "rejected_score")
_ALPACA_EXTRAS = ("input", "system", "history")
_K = DataKind
FORMATS = (
    FormatSpec("HH transcripts", _K.PAIRS, ("chosen", "rejected"), normalisers.transcripts, (), _PAIR_EXTRAS,
          always_conversational=True, recorded=True, fits=_are_transcripts),
    FormatSpec("UltraFeedback, binarised", _K.PAIRS, ("chosen", "rejected", "score_chosen", "score_rejected"),
          normalisers.pairs, ("prompt", "chosen", "rejected"), _PAIR_EXTRAS, recorded=True),
    FormatSpec("UltraFeedback", _K.RANKED, ("instruction|prompt", "completions"), normalisers.ultrafeedback,
          always_conversational=True, recorded=True, fits=_are_scored_objects),
    FormatSpec("align-anything", _K.PAIRS, ("question", "response_1", "response_2", "overall_response"),
          normalisers.align_anything, always_conversational=True, recorded=True),
    FormatSpec("LLaMA-Factory alpaca pairs", _K.PAIRS, ("instruction", "chosen", "rejected"), normalisers.alpaca, (),
          (*_PAIR_EXTRAS[1:], *_ALPACA_EXTRAS), always_conversational=True),
    FormatSpec("LLaMA-Factory sharegpt pairs", _K.PAIRS, ("conversations", "chosen", "rejected"),
          normalisers.conversation, (), (*_PAIR_EXTRAS[1:], "system"), always_conversational=True),
    FormatSpec("pairs", _K.PAIRS, ("chosen", "rejected"), normalisers.pairs, ("prompt", "chosen", "rejected"),
          (*_PAIR_EXTRAS, *_PAIR_SCORES)),
    FormatSpec("ranked responses", _K.RANKED, ("prompt", "responses|completions", "scores|ranks"), normalisers.ranked,
          ("prompt",), recorded=True),
    FormatSpec("LLaMA-Factory alpaca, labelled", _K.UNPAIRED, ("instruction", "output", "kto_tag|label"),
          normalisers.alpaca, (), ("ref_logps", *_ALPACA_EXTRAS), always_conversational=True),
    FormatSpec("LLaMA-Factory sharegpt, labelled", _K.UNPAIRED, ("conversations", "kto_tag|label"),
          normalisers.conversation, (), ("ref_logps", "system"), always_conversational=True),
    FormatSpec("labelled completions", _K.UNPAIRED, ("prompt", "completion", "label|kto_tag"), normalisers.completion,
          ("prompt", "completion"), ("ref_logps",)),
    FormatSpec("labelled conversations", _K.UNPAIRED, ("messages", "label|kto_tag"), normalisers.conversation, (),
          ("ref_logps",), always_conversational=True),
    FormatSpec("LLaMA-Factory alpaca", _K.DEMONSTRATIONS, ("instruction", "output"), normalisers.alpaca, (),
          _ALPACA_EXTRAS, always_conversational=True),
    FormatSpec("LLaMA-Factory sharegpt", _K.DEMONSTRATIONS, ("conversations",), normalisers.conversation, (),
          ("system",), always_conversational=True),
    FormatSpec("prompt and completion", _K.DEMONSTRATIONS, ("prompt", "completion"), normalisers.completion,
          ("prompt", "completion")),
    FormatSpec("messages", _K.DEMONSTRATIONS, ("messages",), normalisers.conversation, always_conversational=True),
    FormatSpec("text", _K.DEMONSTRATIONS, ("text",), normalisers.plain_text),
    FormatSpec("prompts", _K.PROMPTS, ("prompt",), normalisers.prompt_only, ("prompt",)),
)  # fmt: skip
