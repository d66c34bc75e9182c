"""Pure functions from an encoded text to a response: where the prompt ends, one EOS, which tokens are scored."""

from __future__ import annotations

from typing import NamedTuple

from lit_align.data.render import Rendered, Span


class Encoded(NamedTuple):
    """Token ids and the characters that they stand for."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """(0, 0) for tokens that the tokenizer put around the text."""


class Specials(NamedTuple):
    """Ids that begin and end texts."""

    bos: int | None
    eos: int
    ends: frozenset[int]
    """Ids at which the model stops, EOS among them."""


class Response(NamedTuple):
    """One tokenised text."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt, at least one: nothing predicts the first token of a text."""
    mask: list[int] | None = None
    """[len(ids) - prompt], 1 where scored; None: everywhere."""
    straddled: bool = False
    """Whether a token holds the end of the prompt and the start of the completion."""
    double_bos: bool = False
    """Whether a second BOS was removed."""
    prompt_cut: bool = False
    completion_cut: bool = False
    """Whether its end is lost, and with it EOS."""

    @property
    def scored(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.prompt if self.mask is None else sum(self.mask)


def respond(text: Rendered, encoded: Encoded, specials: Specials) -> Response:
    """Finds the prompt, the scored tokens and the end of a text with at least one span.

    A token that holds characters of both belongs to the completion. What follows the first end token after the
    last words is cut off; where there is none, EOS is appended.
    """
    ids, offsets = list(encoded.ids), list(encoded.offsets)
    double_bos = specials.bos is not None and ids[:2] == [specials.bos, specials.bos]
    if double_bos:
        del ids[0], offsets[0]
    start = text.spans[0].start
    first = next((n for n, (_, end) in enumerate(offsets) if end > start), len(ids))
    straddled = first < len(ids) and offsets[first][0] < start
    ids = _ended(ids, offsets, text, first, specials)
    prompt = min(max(first, 1), len(ids))
    return Response(
        ids=ids,
        prompt=prompt,
        mask=_mask(ids, offsets, text.spans, specials)[prompt:] if len(text.spans) > 1 else None,
        straddled=straddled,
        double_bos=double_bos,
    )


def prompted(encoded: Encoded, specials: Specials) -> Response:
    """A prompt alone, with the ids that it has in front of a completion."""
    ids, offsets = encoded.ids, encoded.offsets
    if ids and ids[-1] == specials.eos and offsets[-1] == (0, 0):
        # Some tokenizers end every text with EOS; one that stands in the prompt is part of it.
        ids = ids[:-1]
    double_bos = specials.bos is not None and ids[:2] == [specials.bos, specials.bos]
    ids = ids[double_bos:]
    return Response(ids, len(ids), double_bos=double_bos)


def _ended(ids: list[int], offsets: list[tuple[int, int]], text: Rendered, first: int, specials: Specials) -> list[int]:
    """The ids with exactly one end of turn."""
    words_end = text.spans[-1].words_end
    for n in range(first, len(ids)):
        if ids[n] in specials.ends and offsets[n][0] >= words_end:
            return ids[: n + 1]
    if not text.templated:
        # A plain text may have come with its end token and white space behind it.
        stop = len(text.text.rstrip())
        end = next((n for n in range(first, len(ids)) if ids[n] in specials.ends and offsets[n][1] == stop), None)
        ids = ids if end is None else ids[: end + 1]
    while ids[-2:] == [specials.eos, specials.eos]:
        ids = ids[:-1]
    # The tokenizer may end every text with EOS, and a plain text may have come with it.
    return ids if len(ids) > first and ids[-1] in specials.ends else [*ids, specials.eos]


def _mask(ids: list[int], offsets: list[tuple[int, int]], spans: list[Span], specials: Specials) -> list[int]:
    """1 for the tokens of the spans, each up to its end token; the last one reaches to the end of the ids."""
    mask = [0] * len(ids)
    n = 0
    for span in spans:
        while n < len(offsets) and offsets[n][1] <= span.start:
            n += 1
        while n < min(len(ids), len(offsets)) and offsets[n][0] < span.end:
            mask[n] = 1
            n += 1
            if ids[n - 1] in specials.ends and offsets[n - 1][0] >= span.words_end:
                break
    mask[-1] = 1
    return mask


def fit(response: Response, max_length: int, max_prompt_length: int, bos: int | None) -> Response:
    """Cuts the prompt from the left, keeping BOS, and the completion from the right."""
    ids, prompt, mask = response.ids, response.prompt, response.mask
    prompt_cut = prompt > max_prompt_length
    if prompt_cut:
        keeps_bos = bos is not None and ids[0] == bos and max_prompt_length > 1
        head = [ids[0]] if keeps_bos else []
        ids = head + ids[prompt - max_prompt_length + len(head) :]
        prompt = max_prompt_length
    completion_cut = len(ids) > max_length
    if completion_cut:
        ids = ids[:max_length]
        mask = mask if mask is None else mask[: max_length - prompt]
    return response._replace(ids=ids, prompt=prompt, mask=mask, prompt_cut=prompt_cut, completion_cut=completion_cut)
