"""What may come after a prompt: its tokens there, and how likely it is without whatever goes on from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.rollouts.encoding import encode_prompt
from lit_align.rollouts.engine import Prompt


def check_candidates(candidates: Sequence[str]) -> None:
    """Refuse candidates that are not different texts.

    Raises:
        ConfigError: there are none, or two are the same.
    """
    if not candidates or len(set(candidates)) < len(candidates):
        raise ConfigError("candidates must be different texts", got=repr(list(candidates)), fix="name each once")


def endings_of(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int], candidates: Sequence[str]
) -> list[list[int]]:
    """The tokens of each candidate where it follows a prompt, which decides how a white space is written.

    Args:
        tokenizer: the model's.
        prompt: what they follow.
        ids: its tokens.
        candidates: texts.

    Raises:
        ConfigError: a candidate has no tokens.
    """
    return [_ending(tokenizer, prompt, ids, candidate) for candidate in candidates]


def _ending(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int], candidate: str) -> list[int]:
    whole = None
    if isinstance(prompt, str):
        whole = encode_prompt(tokenizer, prompt + candidate)
    elif prompt and isinstance(prompt[-1], dict) and prompt[-1]["role"] == "assistant":
        turns = cast("list[dict[str, str]]", prompt)
        last = {**turns[-1], "content": turns[-1]["content"] + candidate}
        whole = encode_prompt(tokenizer, [*turns[:-1], last])
    if whole is not None and len(whole) > len(ids) and whole[: len(ids)] == ids:
        return whole[len(ids) :]
    alone = list(tokenizer(candidate, add_special_tokens=False)["input_ids"])
    if not alone:
        raise ConfigError("a candidate has no tokens", got=repr(candidate), fix="give a text")
    return alone


def alone(logps: Sequence[float], endings: Sequence[list[int]]) -> list[float]:
    """Log-probabilities of candidates without those of longer candidates that they begin.

    Args:
        logps: of the candidates' tokens, nats.
        endings: these tokens.
    """
    values = []
    for number, own in enumerate(endings):
        longer = [n for n, other in enumerate(endings) if len(other) > len(own) and other[: len(own)] == own]
        # A longer one that itself begins a third one holds that one's chance already.
        nearest = [n for n in longer if not any(m != n and endings[n][: len(endings[m])] == endings[m] for m in longer)]
        # Relative to its own chance, which may be too small for a number.
        taken = sum(math.exp(min(logps[n] - logps[number], 0.0)) for n in nearest)
        values.append(logps[number] + (math.log1p(-taken) if taken < 1 else -math.inf))
    return values
