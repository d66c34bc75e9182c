"""Prompts as tokens, and tokens as text, in the same way for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.rollouts.engine import Prompt, PromptError


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids that a completion of `prompt` follows on."""
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers end every text with EOS, after which there is nothing to say.
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    if prompt and isinstance(prompt[0], dict):
        if tokenizer.chat_template is None:
            raise ConfigError(
                "a conversation needs a chat template, and the tokenizer has none",
                got=f"tokenizer {tokenizer.name_or_path!r}",
                fix="name one with chat_template, such as chatml; or give plain text (a judge: with as_chat: false)",
            )
        begun = prompt[-1]["role"] == "assistant"
        return list(
            tokenizer.apply_chat_template(
                prompt, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
            )
        )
    return list(cast("list[int]", prompt))


def positions(config: Any) -> int | None:
    """How many tokens a model of a configuration can see; None: it does not say."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_room(prompts: Sequence[list[int]], max_new_tokens: int, limit: int | None) -> None:
    """Refuse prompts that are empty, or leave a model no room for what is to follow.

    Args:
        prompts: token ids.
        max_new_tokens: most tokens that follow.
        limit: tokens that the model can see; None: any number.

    Raises:
        PromptError: there are some.
    """
    refused: dict[int, str] = {}
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            refused[number] = "a prompt has no tokens"
        elif limit is not None and len(prompt) + max_new_tokens > limit:
            refused[number] = "a prompt and its completion are longer than the model can see"
    if not refused:
        return
    first = prompts[next(iter(refused)) - 1]
    if not first:
        raise PromptError(refused, fix="write a prompt, or remove the row")
    raise PromptError(
        refused,
        value=f"{len(first)} tokens and {max_new_tokens} new ones, of {limit}",
        fix="shorten the prompt, or lower max_new_tokens",
    )


def text_of(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> str:
    """Text of generated tokens, without special tokens and up to the first stop string."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    for string in stop:
        text = text.split(string, 1)[0]
    return text


def first_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> int | None:
    """How many tokens it takes until a stop string is complete; None if none is."""

    def contains(length: int) -> bool:
        text = tokenizer.decode(ids[:length], skip_special_tokens=True)
        return any(string in text for string in stop)

    if not stop or not contains(len(ids)):
        return None
    low, high = 0, len(ids)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if contains(middle) else (middle, high)
    return high
