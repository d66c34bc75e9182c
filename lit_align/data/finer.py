"""What a row of finer feedback means: ratings of several attributes, and labels of steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from lit_align.data.assemble import build_row
from lit_align.data.canonical import NO_RATING, CanonicalRow, Completion, Dropped, StepLabel
from lit_align.data.fields import Fields
from lit_align.data.normalisers import exchange, prompt_turns

_SIGNED_FIX = "write -1, 0 or 1, as the first rows do; where labels are from 0 to 1, set data.format: labelled steps"


def rated(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt`, `completion` or `response`, and numbers or nulls in columns, or in an object `ratings` or `labels`."""
    prompt, answer = exchange(fields, conversational, "completion" if fields.has("completion") else "response")
    field = next((name for name in ("ratings", "labels") if fields.has(name)), None)
    given = fields.values if field is None else fields.object(field)
    ratings = [
        math.nan
        if given.get(name) in (None, "")
        else fields.check_number(given[name], name if field is None else f"{field}.{name}")
        for name in fields.rating_names
    ]
    if all(map(math.isnan, ratings)):
        return Dropped(fields.row, NO_RATING, ", ".join(fields.rating_names))
    return build_row(fields, prompt, [answer], ratings=ratings)


def steps(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt`, `completions` or `steps`, and `labels` from 0 to 1, true, false, or null for an unlabelled step."""
    return _labelled_steps(fields, conversational, _plain_label)


def signed_steps(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """The same with labels -1 for wrong, 0 for neither, and 1 for right."""
    return _labelled_steps(fields, conversational, _signed_label)


def _labelled_steps(
    fields: Fields, conversational: bool, read: Callable[[float, str, Fields], StepLabel]
) -> CanonicalRow:
    prompt: Completion = prompt_turns(fields) if conversational else fields.text("prompt")
    field = "completions" if fields.has("completions") else "steps"
    texts = [fields.check_text(text, f"{field}[{n}]") for n, text in enumerate(fields.items(field))]
    values = fields.items("labels")
    if len(values) != len(texts):
        fix = "give each step one, in the same order, null for a step without a label"
        raise fields.error(f"{len(texts)} steps have {len(values)} labels", "labels", fix)
    labels: list[StepLabel] = []
    for number, value in enumerate(values):
        place = f"labels[{number}]"
        given = float(value) if isinstance(value, bool) else value
        if isinstance(value, bool) and read is _signed_label:
            # As numbers, false would be neither right nor wrong.
            raise fields.error("a label of a step is none of -1, 0 and 1", place, _SIGNED_FIX, value)
        labels.append(None if given is None else read(fields.check_number(given, place), place, fields))
    return build_row(fields, prompt, ["\n".join(texts)], steps=texts, step_labels=labels)


def _plain_label(value: float, field: str, fields: Fields) -> StepLabel:
    if 0 <= value <= 1:
        return value
    fix = "write how far the step is right, from 0 to 1; where labels are -1, 0 and 1, set data.format: PRM800K"
    raise fields.error("a label of a step is out of range", field, fix, value)


def _signed_label(value: float, field: str, fields: Fields) -> StepLabel:
    if value in (-1, 0, 1):
        return "neutral" if value == 0 else (value + 1) / 2
    raise fields.error("a label of a step is none of -1, 0 and 1", field, _SIGNED_FIX, value)
