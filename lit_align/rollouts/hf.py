"""Completions from a Hugging Face model: batched, reproducible prompt by prompt, also from sharded weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TopPLogitsWarper,
)

from lit_align.core.errors import ConfigError
from lit_align.core.gathering import gathered
from lit_align.core.modes import evaluating
from lit_align.rollouts.engine import Completion, Prompt, PromptError

__all__ = ["Completion", "Prompt", "encode_prompt", "generate"]


@torch.no_grad()
def generate(
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
    batch_size: int = 8,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Complete prompts, in eval mode; the mode is restored and the global random state is not used.

    What comes back for a prompt does not depend on the prompts beside it (up to rounding in the model): each has
    random numbers of its own. The model's generation config applies (EOS tokens, repetition penalty), except for
    sampling, which the arguments set.

    On weights sharded by FSDP2 every rank must call this together; they are gathered once for the whole call.

    Args:
        policy: a `Scorer`, or a Hugging Face or PEFT causal language model.
        tokenizer: the model's.
        prompts: what to complete.
        max_new_tokens: longest completion, tokens.
        temperature: 0 takes the likeliest token each time; 1 samples from the model.
        top_p: sample from the likeliest tokens that have this probability together.
        seed: the i-th prompt's random numbers follow from (seed, i); or one seed for each prompt.
        batch_size: prompts at a time.
        stop: strings that end a completion.

    Returns:
        One completion for each prompt, in their order.

    Raises:
        ConfigError: a setting is out of range, or the model cannot generate.
        PromptError: prompts are empty, or leave no room for `max_new_tokens`.
    """
    _check(max_new_tokens, temperature, top_p, batch_size)
    model: Any = policy.model if hasattr(policy, "plain") else policy
    if not hasattr(model, "generate"):
        raise ConfigError(
            "only a causal language model can write completions",
            got=type(model).__name__,
            fix="give a model with a language-model head",
        )
    seeds = [seed * 1_000_003 + index for index in range(len(prompts))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise ConfigError(
            "every prompt needs a seed of its own",
            got=f"{len(seeds)} seeds, {len(prompts)} prompts",
            fix="give as many seeds as prompts, or a single number",
        )
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    check_room(encoded, max_new_tokens, model.config)
    config = _generation_config(model, tokenizer, max_new_tokens, stop)
    # Prompts of like length go together: less padding, the same completions.
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    found: dict[int, list[int]] = {}
    with _ready(policy):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            sampler = _Sampler([seeds[index] for index in chosen], temperature, top_p) if temperature > 0 else None
            rows = _generate_batch(model, tokenizer, [encoded[index] for index in chosen], config, sampler)
            found.update(zip(chosen, rows, strict=True))
    return [
        _completion(prompt, found[index], tokenizer, config, max_new_tokens, stop)
        for index, prompt in enumerate(prompts)
    ]


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


@contextmanager
def _ready(policy: nn.Module) -> Iterator[None]:
    """The model with its weights, its own attention, and in eval mode; all restored afterwards."""
    plain: Any = getattr(policy, "plain", nullcontext)
    with gathered(policy), plain(), evaluating(policy):
        yield


class _Sampler(LogitsProcessor):
    """Makes the greedy choice a sample, by adding Gumbel noise; each row draws from a generator of its own."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.seeds = seeds
        self.temperature = temperature
        self.nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] logits, of which the largest is a sample."""
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        scores = scores.float() / self.temperature
        if self.nucleus is not None:
            scores = self.nucleus(input_ids, scores)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()


def _generation_config(
    model: Any, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, stop: Sequence[str]
) -> GenerationConfig:
    """The model's own config; a completion also ends with the tokenizer's EOS, which training data end with."""
    config: GenerationConfig = copy.deepcopy(model.generation_config)
    known = config.eos_token_id
    ends = [] if known is None else known if isinstance(known, list) else [known]
    config.eos_token_id = sorted({*ends, tokenizer.eos_token_id} - {None}) or None
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id[0] if config.eos_token_id else 0
    config.max_new_tokens, config.max_length = max_new_tokens, None
    # Sampling is done by `_Sampler`.
    config.do_sample, config.num_beams = False, 1
    config.temperature, config.top_p, config.top_k = 1.0, 1.0, 50
    config.stop_strings = list(stop) or None
    config.use_cache = True
    return config


def _generate_batch(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: GenerationConfig,
    sampler: _Sampler | None,
) -> list[list[int]]:
    """Generated ids of each prompt, with whatever padding follows its end."""
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = [[config.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=config,
        logits_processor=LogitsProcessorList([] if sampler is None else [sampler]),
        tokenizer=tokenizer,
        # Weights are gathered, so ranks need not wait for each other; by default they would, token by token.
        synced_gpus=False,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    return rows


def _completion(
    prompt: Prompt,
    ids: list[int],
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    max_new_tokens: int,
    stop: Sequence[str],
) -> Completion:
    """Cut what stands after the end: rows of a batch are padded until the last of them is done."""
    ends = set(config.eos_token_id or ())
    length = next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
    finished = any(token in ends for token in ids[:length])
    stopped = _first_stop(ids[:length], tokenizer, stop)
    if stopped is not None:
        length, finished = stopped, True
    text = str(tokenizer.decode(ids[:length], skip_special_tokens=True))
    for string in stop:
        text = text.split(string, 1)[0]
    return Completion(prompt, text, ids[:length], finished)


def _first_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> int | None:
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


def _check(max_new_tokens: int, temperature: float, top_p: float, batch_size: int) -> None:
    for name, value, good, fix in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "give 1 or more"),
        ("temperature", temperature, temperature >= 0, "give 0 for the likeliest tokens, or a positive number"),
        ("top_p", top_p, 0 < top_p <= 1, "give a probability above 0; 1 samples from all tokens"),
        ("batch_size", batch_size, batch_size >= 1, "give 1 or more"),
    ):
        if not good:
            raise ConfigError(f"cannot generate with this {name}", got=f"{name}: {value}", fix=fix)


def check_room(prompts: Sequence[list[int]], max_new_tokens: int, config: Any) -> None:
    """Refuse prompts that are empty, or leave a model no room for what is to follow.

    Args:
        prompts: token ids.
        max_new_tokens: most tokens that follow.
        config: of the model.

    Raises:
        PromptError: there are some.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
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
