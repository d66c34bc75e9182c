"""Padding for reward models outside lit-align: transformers reads a score at the last token that is not padding.

Where a text may end with the padding token itself, as with the widespread `pad_token = eos_token`, it reads one token
too early, without a word. lit-align knows lengths and needs none of this.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


class ScorePadding(NamedTuple):
    """How a reward model is to be padded."""

    tokenizer: PreTrainedTokenizerBase
    """One that pads with `pad`, otherwise the same."""
    pad: int | None
    """For the model's configuration; without one, transformers takes one text at a time and refuses batches."""
    note: str
    """What has to be known about it; empty where nothing was changed."""


def score_padding(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, *, adapters: bool) -> ScorePadding:
    """Find a padding token that no text ends with.

    Args:
        tokenizer: the model's; it is left as it is.
        config: of the model, which knows the size of the vocabulary and what ends a text.
        adapters: whether adapters are written alone, to be put on a base model with a configuration of its own.
    """
    text = config.get_text_config()
    ends = {tokenizer.eos_token_id, *_listed(config.eos_token_id), *_listed(text.eos_token_id)}
    special = [tokenizer.pad_token_id, *_named_pad(tokenizer), tokenizer.unk_token_id]
    unfit = {None, tokenizer.bos_token_id, *ends}
    pad = next((token for token in special if token not in unfit and token < text.vocab_size), None)
    if pad is None:
        note = (
            f"the tokenizer has no token to pad with besides {tokenizer.eos_token!r}, which texts end with, so that "
            "transformers would read scores one token too early. The written model takes one text at a time and "
            "refuses batches; `lit-align score` takes both"
        )
        return ScorePadding(tokenizer, None, note)
    base = f"load the base model with pad_token_id={pad}" if adapters and pad != text.pad_token_id else ""
    if pad == tokenizer.pad_token_id:
        return ScorePadding(tokenizer, pad, f"{base}, which its configuration does not say" if base else "")
    former, tokenizer = tokenizer.pad_token, copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    note = (
        f"the written tokenizer pads with {tokenizer.pad_token!r} instead of {former!r}: transformers reads a score at "
        f"the last token that is not padding, and texts end with {tokenizer.eos_token!r}. "
        f"Pad with the written tokenizer{', and ' + base if base else ''}"
    )
    return ScorePadding(tokenizer, pad, note)


def _listed(ends: Any) -> list[int]:
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _named_pad(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens that are there to pad with, although the tokenizer does not say so."""
    added = tokenizer.added_tokens_decoder.items()
    return [number for number, token in added if token.special and "pad" in token.content.lower()]
