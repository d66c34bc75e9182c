"""The tokenizer as the settings want it, and where its model stops."""

from __future__ import annotations

import copy

from transformers import GenerationConfig, PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.data.templates import resolve_template


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
