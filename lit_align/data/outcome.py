"""What of a row can be learnt from once its responses are tokens, which may have made them equal or unlike."""

from __future__ import annotations

from typing import NamedTuple

from lit_align.core.batch import DataKind
from lit_align.data.canonical import FEW_RESPONSES, SAME_PARAPHRASE, UNDECIDED, CanonicalRow
from lit_align.data.responses import Response

NOTHING_TO_SCORE = "no token to score"
IDENTICAL_TOKENS = "chosen and rejected are the same tokens"
REPEATED_TOKENS = "response of the same tokens as another"
UNALIGNED = "the completion has other tokens after the second prompt"
CONTEXT_CUT = "the prompt with its context is longer than the limits"


class Outcome(NamedTuple):
    """What is left of a row."""

    row: CanonicalRow
    """With the pairs, scores and counts of what is left."""
    responses: list[Response]
    reason: str = ""
    """Why nothing can be learnt from the row; empty where something can."""


def settle(kind: DataKind, row: CanonicalRow, responses: list[Response]) -> Outcome:
    """Leave out what the tokens of a row give no reason to learn from.

    Args:
        kind: what the row is learnt as.
        row: the row.
        responses: cut to the limits on length, in the order of the rendered texts.

    Returns:
        The row and the responses that are left; for kinds that compare nothing, all of them.
    """
    if kind is DataKind.PAIRS:
        return _distinct_pairs(row, responses)
    if kind is DataKind.RANKED:
        return _distinct_list(row, responses)
    if kind is DataKind.JUDGED and len(responses) > 1:
        return _aligned(row, responses)
    if kind is DataKind.CONTEXTUAL:
        # Prompts are cut from the left, where the context stands.
        return Outcome(row, responses, CONTEXT_CUT) if responses[1].prompt_cut else _aligned(row, responses)
    reason = {DataKind.PARAPHRASED: SAME_PARAPHRASE, DataKind.COMPARISONS: IDENTICAL_TOKENS}.get(kind)
    if reason is not None and responses[0].ids == responses[1].ids:
        return Outcome(row, responses, reason)
    return Outcome(row, responses)


def _distinct_pairs(row: CanonicalRow, responses: list[Response]) -> Outcome:
    """The pairs of different tokens."""
    kept = [n for n, (a, b) in enumerate(row.pairs) if responses[a].ids != responses[b].ids]
    if not kept:
        return Outcome(row, responses, IDENTICAL_TOKENS)
    if len(kept) < len(row.pairs):
        row = row._replace(
            pairs=[row.pairs[n] for n in kept],
            margins=None if row.margins is None else [row.margins[n] for n in kept],
            weights=None if row.weights is None else [row.weights[n] for n in kept],
            left_out={**row.left_out, IDENTICAL_TOKENS: len(row.pairs) - len(kept)},
        )
    return Outcome(row, responses)


def _distinct_list(row: CanonicalRow, responses: list[Response]) -> Outcome:
    """The responses of different tokens, the first of each; they must still state a preference."""
    assert row.scores is not None, "ranked rows have scores"
    first: dict[tuple[int, ...], int] = {}
    for number, response in enumerate(responses):
        first.setdefault(tuple(response.ids), number)
    kept = list(first.values())
    if len(kept) == len(responses):
        return Outcome(row, responses)
    scores = [row.scores[n] for n in kept]
    left_out = {**row.left_out, REPEATED_TOKENS: len(responses) - len(kept)}
    row = row._replace(completions=[row.completions[n] for n in kept], scores=scores, left_out=left_out)
    reason = FEW_RESPONSES if len(kept) < 2 else UNDECIDED if len(set(scores)) < 2 else ""
    return Outcome(row, [responses[n] for n in kept], reason)


def _aligned(row: CanonicalRow, responses: list[Response]) -> Outcome:
    """The completion after both prompts, cut to the same tokens."""
    if any(response.completion_cut for response in responses):
        shortest = min(len(response.ids) - response.prompt for response in responses)
        responses = [_shortened(response, shortest) for response in responses]
        if not all(response.scored for response in responses):
            return Outcome(row, responses, NOTHING_TO_SCORE)
    plain, judged = responses
    same = plain.ids[plain.prompt :] == judged.ids[judged.prompt :] and plain.mask == judged.mask
    return Outcome(row, responses, "" if same else UNALIGNED)


def _shortened(response: Response, completion: int) -> Response:
    """The response with at most so many tokens of its completion."""
    end = response.prompt + completion
    if len(response.ids) <= end:
        return response
    mask = None if response.mask is None else response.mask[:completion]
    return response._replace(ids=response.ids[:end], mask=mask, completion_cut=True)
