"""Solutions in steps: which steps are learnt from, and the tokens that end them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_align.core.demand import Neutral, StepLabelling
from lit_align.core.errors import ConfigError
from lit_align.data.canonical import NO_STEP_LABEL, CanonicalRow, Completion, Dropped, StepLabel
from lit_align.data.responses import Response

STEP_SEPARATOR = "\n"
"""Stands behind every step unless something else is asked for."""
_NEUTRAL: dict[Neutral, float | None] = {"positive": 1.0, "negative": 0.0, "ignore": None}


def settle_labels(labels: Sequence[StepLabel], labelling: StepLabelling) -> list[float | None]:
    """What each step is learnt as, None for not at all.

    A label between 0 and 1, such as the share of rollouts from there that end well (Math-Shepherd), stays as it is; a
    step is wrong where its label is 0. With `last_only` errors before do not matter.
    """
    settled = [_NEUTRAL[labelling.neutral] if label == "neutral" else label for label in labels]
    if labelling.last_only:
        return [*[None] * (len(settled) - 1), settled[-1]]
    if labelling.until_first_error and 0.0 in settled:
        first = settled.index(0.0)
        return settled[: first + 1] + [None] * (len(settled) - first - 1)
    return settled


def label_steps(row: CanonicalRow, labelling: StepLabelling) -> CanonicalRow | Dropped:
    """The row with settled labels, unless there are none."""
    assert row.step_labels is not None, "steps are labelled"
    labels = settle_labels(row.step_labels, labelling)
    if all(label is None for label in labels):
        return Dropped(row.row, NO_STEP_LABEL, f"labels {row.step_labels}")
    return row._replace(step_labels=list(labels))


def known_labels(row: CanonicalRow) -> list[float | None]:
    """The labels of a row's steps; one that is neither right nor wrong has been settled, or counts as none."""
    return [None if label == "neutral" else label for label in row.step_labels or []]


def split_steps(text: str, separator: str) -> list[str]:
    """The parts of a text between separators, without those that say nothing."""
    return [part for part in text.split(separator) if part.strip()]


def by_steps(row: CanonicalRow, separator: str) -> list[tuple[CanonicalRow, list[str]]]:
    """For each response, a row with the prompt of its steps, and the steps.

    A response of several turns, or a conversation, has those of its last turn.
    """
    if row.steps is not None:
        return [(row, row.steps)]
    if row.text is not None:
        return [(row._replace(text=""), split_steps(row.text, separator))]
    if row.messages is not None:
        last = max(index for index, turn in enumerate(row.messages) if turn["role"] == "assistant")
        return [(row, split_steps(row.messages[last]["content"], separator))]
    return [_last_turn(row, completion, separator) for completion in row.completions]


def _last_turn(row: CanonicalRow, completion: Completion, separator: str) -> tuple[CanonicalRow, list[str]]:
    if isinstance(completion, str):
        return row, split_steps(completion, separator)
    assert isinstance(row.prompt, list), "turns follow turns"
    return row._replace(prompt=[*row.prompt, *completion[:-1]]), split_steps(completion[-1]["content"], separator)


class StepEncoder:
    """Makes tokens of steps.

    Steps and separators are encoded apart: a separator that merged with the step after it would move the label.

    Args:
        tokenizer: the model's.
        separator: stands behind every step, also the last one; it may be a special token.
        last_only: responses without labels are scored at the end of their last step only.

    Raises:
        ConfigError: the separator has no tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, separator: str, *, last_only: bool = False) -> None:
        self.tokenizer = tokenizer
        self.separator = separator
        self.last_only = last_only
        self.separator_ids: list[int] = tokenizer(separator, add_special_tokens=False)["input_ids"] if separator else []
        if not self.separator_ids:
            raise ConfigError(
                "The separator of steps has no tokens, one of which is to be scored.",
                got=f"data.step_separator: {separator!r}",
                fix="Give a text such as '\\n', or one of the tokenizer's special tokens.",
            )

    def respond(self, prompt: list[int], steps: Sequence[str], labels: Sequence[float | None] | None) -> Response:
        """Tokens of a prompt and steps, of which the last one of each labelled step's separator is scored.

        Args:
            prompt: tokens of the prompt.
            steps: texts.
            labels: one for each step, None for one that is not scored; None: all are scored, or the last.
        """
        ids = self._encode(steps)
        if labels is None:
            scored = [not self.last_only or number == len(steps) - 1 for number in range(len(steps))]
        else:
            scored = [label is not None for label in labels]
        return join_steps(prompt, ids, self.separator_ids, scored)

    def _encode(self, steps: Sequence[str]) -> list[list[int]]:
        if not steps:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(steps), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return ids


def join_steps(
    prompt: Sequence[int], steps: Sequence[Sequence[int]], separator: Sequence[int], scored: Sequence[bool]
) -> Response:
    """Tokens of a prompt and of steps, with a separator behind each step; where it is scored, its last token is."""
    ids, mask = list(prompt), [0] * len(prompt)
    for step, on in zip(steps, scored, strict=True):
        ids += [*step, *separator]
        mask += [0] * (len(step) + len(separator) - 1) + [int(on)]
    # Where there is no prompt, the first token takes its place.
    start = max(len(prompt), 1)
    return Response(ids, min(start, len(ids)), mask[start:])


def whole_steps(response: Response) -> Response:
    """A response that was cut, without what follows the last step that is scored whole."""
    if not response.completion_cut or response.mask is None or not any(response.mask):
        return response
    size = len(response.mask) - response.mask[::-1].index(1)
    return response._replace(ids=response.ids[: response.prompt + size], mask=response.mask[:size])
