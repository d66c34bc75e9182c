"""The tokenizer as the settings want it, where its model stops, and how long its texts may be."""

from __future__ import annotations

import copy
from functools import cache

from transformers import GenerationConfig, PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.core.pretrained import load_config
from lit_align.data.templates import resolve_template

_UNLIMITED = 10**9


def adjusted(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, eos_token: str | None
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with another chat template or EOS token; None keeps its own.

    Raises:
        ConfigError: the EOS token is not one of its tokens, or there is no such template.
    """
    template = resolve_template(chat_template)
    tokenizer = copy.deepcopy(tokenizer)
    if isinstance(tokenizer.chat_template, dict):
        # Several templates for several uses: the others are for tools and retrieval.
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if template is not None:
        tokenizer.chat_template = template
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ConfigError(
                "The EOS token is not one of the tokenizer's tokens.",
                got=f"data.eos_token: {eos_token!r}",
                fix="Name a token of its vocabulary.",
            )
        tokenizer.eos_token = eos_token
    return tokenizer


def end_tokens(name: str | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids at which a model stops generating, by its generation settings; none where it has none.

    Args:
        name: folder or hub name of the model.
        tokenizer: ids that it does not know are passed over.
    """
    if name is None:
        return ()
    try:
        ends = GenerationConfig.from_pretrained(name).eos_token_id
    except (OSError, ValueError):
        return ()
    listed = [ends] if isinstance(ends, int) else ends or []
    return tuple(end for end in listed if 0 <= end < len(tokenizer))


def most_positions(name: str | None, revision: str | None = None, trust_remote_code: bool = False) -> int:
    """The most tokens that a model has positions for; a very large number where it does not say.

    Args:
        name: folder or hub name of the model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.
    """
    if name is None:
        return _UNLIMITED
    try:
        return _positions(name, revision, trust_remote_code)
    except ConfigError:
        # An adapter, or a folder with a tokenizer only: whoever builds the model will tell what is wrong.
        return _UNLIMITED


@cache
def _positions(name: str, revision: str | None, trust_remote_code: bool) -> int:
    """Asked for in every round of a loop, and of a hub each time."""
    config = load_config(name, revision, trust_remote_code)
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or _UNLIMITED)
