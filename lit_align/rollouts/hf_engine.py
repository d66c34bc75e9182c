"""A Hugging Face model as an engine: it completes prompts, and weighs what may come next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_align.core.architectures import resolve_layout
from lit_align.core.batch import Example
from lit_align.core.forward import Scorer
from lit_align.core.gathering import gathered
from lit_align.core.layout import build_rows
from lit_align.core.modes import evaluating
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.core.policy_spec import DtypeName
from lit_align.core.pretrained import load_tokenizer
from lit_align.core.ranges import positive
from lit_align.data.shown import SYSTEM_ROLES
from lit_align.data.text_settings import TextSettings, text_settings_of
from lit_align.data.tokenizers import adjusted
from lit_align.rollouts.candidates import alone, check_candidates, endings_of
from lit_align.rollouts.counts import GenerationCounts
from lit_align.rollouts.encoding import check_room, encode_prompt, positions
from lit_align.rollouts.engine import Completion, Engine, Prompt
from lit_align.rollouts.hf import generate
from lit_align.rollouts.mixing import LogitMix


class HFEngine(Engine):
    """A causal language model of Hugging Face; it loads at first use.

    Args:
        model: folder or hub name; an adapter is merged into its base model.
        tokenizer: folder or hub name; None: the model's.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        separator: stands behind a plain prompt of the data, see `as_trained`; None: as exported, else nothing.
        as_chat: make a user's turn of a plain prompt of the data; None: as exported, else false.
        system_prompt: put before conversations of the data that have none; None: as exported, else nothing; an empty
            one: nothing.
        batch_size: completions, or prompts to be weighed, at a time.
        dtype: dtype of the weights; auto: as they were saved.
        device: such as `cuda:0`; None: a GPU where there is one, else the CPU.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | None = None,
        chat_template: str | None = None,
        separator: str | None = None,
        as_chat: bool | None = None,
        system_prompt: str | None = None,
        batch_size: int = 8,
        dtype: DtypeName = "float32",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.device = str(model), device
        self.tokenizer_name, self.chat_template = tokenizer, chat_template
        self._given = {"separator": separator, "as_chat": as_chat, "system_prompt": system_prompt}
        self.batch_size = int(positive("batch_size", batch_size))
        self.spec = PolicySpec(self.name, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
        self.counts = GenerationCounts()
        self.progress: Callable[[Sequence[Completion]], None] | None = None
        """Told the completions of each batch; see `rollouts.progress`."""
        self._scorer: Scorer | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def of(cls, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 8) -> HFEngine:
        """An engine out of a model that is there already, such as the policy in training.

        Args:
            scorer: the model behind the core's forward pass; it is used as it is at each call.
            tokenizer: the model's.
            batch_size: completions, or prompts to be weighed, at a time.
        """
        engine = cls(getattr(tokenizer, "name_or_path", "") or "a live model", batch_size=batch_size)
        engine._scorer, engine._tokenizer = scorer, tokenizer
        return engine

    @property
    def scorer(self) -> Scorer:
        """The model behind the core's forward pass.

        Raises:
            ConfigError: it cannot be read.
        """
        if self._scorer is None:
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._scorer = Scorer(build_policy(self.spec, device).requires_grad_(False))
        return self._scorer

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer with the chat template of the settings.

        Raises:
            ConfigError: it cannot be read.
        """
        if self._tokenizer is None:
            own = self.tokenizer_name is None
            name = self.name if self.tokenizer_name is None else self.tokenizer_name
            loaded = load_tokenizer(name, self.spec.revision if own else None, self.spec.trust_remote_code)
            self._tokenizer = adjusted(loaded, self.chat_template, None)
        return self._tokenizer

    @cached_property
    def text_settings(self) -> TextSettings:
        """How prompts of the data are written: as the settings say, else as the model was exported.

        Raises:
            ConfigError: what stands beside the model cannot be read.
        """
        return (text_settings_of(self.name) or TextSettings()).but(**self._given)

    def as_trained(self, prompt: Prompt) -> Prompt:
        """A prompt of the data as the model has learnt to answer it.

        `generate` completes what it is given as it is: judges and others write whole prompts themselves.
        """
        settings = self.text_settings
        if isinstance(prompt, str):
            if not settings.as_chat:
                return prompt + settings.separator
            prompt = [{"role": "user", "content": prompt}]
        turns = cast("list[dict[str, Any]]", prompt)
        if settings.system_prompt is None or not turns or not isinstance(turns[0], dict):
            return prompt
        own = turns[0]["role"] in SYSTEM_ROLES
        return prompt if own else [{"role": "system", "content": settings.system_prompt}, *turns]

    def release(self) -> None:
        """Give back the weights; they load again at the next call."""
        self._scorer = None

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | Sequence[int] = 0,
        samples: int = 1,
        stop: Sequence[str] = (),
        logps: bool = False,
        mix: LogitMix | None = None,
    ) -> list[Completion]:
        """Complete prompts, also with a second model; see `Engine.generate` and `rollouts.hf.generate`."""
        with self.counts.of_call(len(prompts)) as done:
            done += generate(
                self.scorer,
                self.tokenizer,
                prompts,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                seed=seed,
                samples=samples,
                batch_size=self.batch_size,
                stop=stop,
                logps=logps,
                mix=mix,
                progress=self.progress,
            )
        return done

    @torch.no_grad()
    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Weigh what may come next; see `Engine.token_logps`. The prompt is computed once for all candidates."""
        check_candidates(candidates)
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        endings = [endings_of(self.tokenizer, *both, candidates) for both in zip(prompts, encoded, strict=True)]
        longest = max((len(ids) for options in endings for ids in options), default=0)
        check_room(encoded, longest, positions(self._config()))
        order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
        found: dict[int, list[float]] = {}
        with gathered(self.scorer), evaluating(self.scorer):
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                sums = self._sums([encoded[index] for index in chosen], [endings[index] for index in chosen])
                for index, logps in zip(chosen, sums.split(len(candidates)), strict=True):
                    found[index] = alone(logps.tolist(), endings[index])
        return [found[index] for index in range(len(prompts))]

    def _sums(self, prompts: Sequence[list[int]], endings: Sequence[list[list[int]]]) -> Tensor:
        """Log-probabilities of all endings of all prompts in a row, float64 nats."""
        examples = [
            Example(row, [prompt + ending for ending in options], [len(prompt)] * len(options))
            for row, (prompt, options) in enumerate(zip(prompts, endings, strict=True), start=1)
        ]
        rows = build_rows(examples, resolve_layout("auto", self._config()))
        rows = move_data_to_device(rows, next(self.scorer.parameters()).device)
        return self.scorer.sequence_logps(rows).sums.cpu()

    def _config(self) -> Any:
        model: Any = self.scorer.model
        return model.config
