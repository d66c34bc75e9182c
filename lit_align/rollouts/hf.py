"""Completions from a Hugging Face model: batched, reproducible prompt by prompt, also from sharded weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from lit_align.core.errors import ConfigError
from lit_align.core.gathering import gathered
from lit_align.core.modes import evaluating
from lit_align.rollouts.encoding import check_room, encode_prompt, first_stop, positions, text_of
from lit_align.rollouts.engine import Completion, Prompt, seeds_of
from lit_align.rollouts.mixing import LogitMix, Mixer
from lit_align.rollouts.sampling import Drawing, Recorder, Sampler
from lit_align.rollouts.stepping import Prefix, Prompts, base_of, can_share

__all__ = ["Completion", "LogitMix", "Prompt", "encode_prompt", "generate"]


@torch.no_grad()
def generate(
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    seed: int | Sequence[int] = 0,
    samples: int = 1,
    batch_size: int = 8,
    stop: Sequence[str] = (),
    logps: bool = False,
    mix: LogitMix | None = None,
    progress: Callable[[Sequence[Completion]], None] | None = None,
) -> list[Completion]:
    """Complete prompts, in eval mode; the mode is restored and the global random state is not used.

    What comes back for a prompt does not depend on the prompts beside it (up to rounding in the model): each
    completion has random numbers of its own. The model's generation config applies (EOS tokens, repetition penalty),
    except for sampling, which the arguments set.

    On weights sharded by FSDP2 every rank must call this together; they are gathered once for the whole call.

    Args:
        policy: a `Scorer`, or a Hugging Face or PEFT causal language model.
        tokenizer: the model's.
        prompts: what to complete.
        max_new_tokens: longest completion, tokens.
        temperature: 0 takes the likeliest token each time; 1 samples from the model.
        top_p: sample from the likeliest tokens that have this probability together.
        top_k: sample from this many of the likeliest tokens; None: from all.
        min_p: sample from tokens that have at least this share of the likeliest token's probability.
        seed: the i-th completion's random numbers follow from (seed, i); or one seed for each completion.
        samples: completions of each prompt, made from one computation of its keys and values where the model has
            them; they are those that `samples` copies of the prompt would get.
        batch_size: completions at a time.
        stop: strings that end a completion.
        logps: give the log-probabilities of the generated tokens.
        mix: a second model that has a say in each token.
        progress: told the completions of each batch as soon as they are there, in no order of the prompts.

    Returns:
        `samples` completions of the first prompt, then of the second, and so on.

    Raises:
        ConfigError: a setting is out of range, or the model cannot generate.
        PromptError: prompts are empty, or leave no room for `max_new_tokens`.
    """
    drawing = Drawing(temperature, top_p, top_k, min_p)
    drawing.check()
    for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"cannot generate with this {name}", got=f"{name}: {value}", fix="give 1 or more")
    model = _writer(policy)
    seeds = seeds_of(seed, len(prompts) * samples)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    check_room(encoded, max_new_tokens, positions(model.config))
    config = _generation_config(model, tokenizer, max_new_tokens, stop)
    second = None if mix is None else mix.check()
    writing = _Writing(model, tokenizer, config, drawing, mix, second, logps)
    found: dict[int, Completion] = {}
    with ExitStack() as ready:
        for part in (policy,) if mix is None else (policy, mix.model):
            ready.enter_context(_ready(part))
        for places, prompt_of, rows in writing.batches(encoded, seeds, samples, batch_size):
            done = [
                _completion(prompts[place], row, tokenizer, config, stop)
                for place, row in zip(prompt_of, rows, strict=True)
            ]
            found.update(zip(places, done, strict=True))
            if progress is not None:
                progress(done)
    return [found[index] for index in range(len(seeds))]


@contextmanager
def _ready(policy: nn.Module) -> Iterator[None]:
    """The model with its weights, its own attention, and in eval mode; all restored afterwards."""
    plain: Any = getattr(policy, "plain", nullcontext)
    with gathered(policy), plain(), evaluating(policy):
        yield


class _Row(NamedTuple):
    """What a row of a batch has become."""

    ids: list[int]
    """Generated tokens, with whatever padding follows their end."""
    logps: list[float] | None
    """Of each of them, nats."""


class _Writing(NamedTuple):
    """What all batches of a call have in common."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: GenerationConfig
    drawing: Drawing
    mix: LogitMix | None
    second: Any
    """The model of the mixture, as Hugging Face knows it."""
    logps: bool

    def batches(
        self, encoded: list[list[int]], seeds: list[int], samples: int, size: int
    ) -> Iterator[tuple[list[int], list[int], list[_Row]]]:
        """Generate in batches of at most `size` rows: places of completions, places of their prompts, and the rows.

        Prompts of like length go together: less padding, the same completions.
        """
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        device = next(self.model.parameters()).device
        together = max(1, size // samples)
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            prompts = Prompts.padded([encoded[index] for index in chosen], self.config.pad_token_id, device)
            shares = samples > 1 and prompts.ids.shape[1] > 1 and can_share(self.model)
            prefix = Prefix(self.model, prompts) if shares else None
            for first in range(0, samples, size):
                count = min(size, samples - first)
                cache = None if prefix is None else prefix.repeated(count, again=first + count < samples)
                prompt_of = [index for index in chosen for _ in range(count)]
                places = [index * samples + first + number for index in chosen for number in range(count)]
                yield places, prompt_of, self.batch(prompts, count, [seeds[place] for place in places], cache)

    def batch(self, prompts: Prompts, repeats: int, seeds: list[int], cache: DynamicCache | None) -> list[_Row]:
        """Generate `repeats` rows behind each prompt, going on from a cache of the rows if there is one."""
        mixer = None if self.mix is None else Mixer(self.mix, self.second, prompts, repeats)
        drawn = self.drawing.temperature > 0 or mixer is not None
        rows = prompts.repeated(repeats)
        recorder = Recorder() if self.logps else None
        with nullcontext() if recorder is None else recorder.listening(base_of(self.model)):
            output: Tensor = self.model.generate(
                input_ids=rows.ids,
                attention_mask=rows.mask,
                generation_config=self.config,
                logits_processor=LogitsProcessorList([Sampler(seeds, self.drawing, mixer)] if drawn else []),
                stopping_criteria=StoppingCriteriaList([] if recorder is None else [recorder]),
                tokenizer=self.tokenizer,
                # Weights are gathered, so ranks need not wait for each other; by default they would, token by token.
                synced_gpus=False,
                **({} if cache is None else {"past_key_values": cache}),
            )
        ids = output[:, rows.ids.shape[1] :].tolist()
        logps = [None] * len(ids) if recorder is None else recorder.rows()
        return [_Row(*row) for row in zip(ids, logps, strict=True)]


def _writer(policy: nn.Module) -> Any:
    """The model that writes, as Hugging Face knows it."""
    model: Any = policy.model if hasattr(policy, "plain") else policy
    if not hasattr(model, "generate"):
        raise ConfigError(
            "only a causal language model can write completions",
            got=type(model).__name__,
            fix="give a model with a language-model head",
        )
    return model


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
    # Sampling is done by `Sampler`.
    config.do_sample, config.num_beams = False, 1
    config.temperature, config.top_p, config.top_k = 1.0, 1.0, 50
    config.stop_strings = list(stop) or None
    config.use_cache = True
    # Of ours, which may begin with a prompt's.
    config.cache_implementation = None
    return config


def _completion(
    prompt: Prompt,
    row: _Row,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    stop: Sequence[str],
) -> Completion:
    """Cut what stands after the end: rows of a batch are padded until the last of them is done."""
    ids, ends = row.ids, set(config.eos_token_id or ())
    length = next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
    finished = any(token in ends for token in ids[:length])
    stopped = first_stop(ids[:length], tokenizer, stop)
    if stopped is not None:
        length, finished = stopped, True
    return Completion(
        prompt,
        text_of(ids[:length], tokenizer, stop),
        ids[:length],
        finished,
        None if row.logps is None else row.logps[:length],
    )
