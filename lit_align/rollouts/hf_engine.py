"""A Hugging Face model as an engine: it completes prompts, and weighs what may come next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_align.core.architectures import resolve_layout
from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.gathering import gathered
from lit_align.core.layout import build_rows
from lit_align.core.modes import evaluating
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.core.policy_spec import DtypeName
from lit_align.core.pretrained import load_tokenizer
from lit_align.core.ranges import positive
from lit_align.data.tokenizers import adjusted
from lit_align.rollouts.engine import Completion, Engine, Prompt
from lit_align.rollouts.hf import check_room, encode_prompt, generate


class HFEngine(Engine):
    """A causal language model of Hugging Face; it loads at first use.

    Args:
        model: folder or hub name; an adapter is merged into its base model.
        tokenizer: folder or hub name; None: the model's.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        batch_size: prompts at a time.
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
        batch_size: int = 8,
        dtype: DtypeName = "float32",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.device = str(model), device
        self.tokenizer_name, self.chat_template = tokenizer, chat_template
        self.batch_size = int(positive("batch_size", batch_size))
        self.spec = PolicySpec(self.name, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
        self._scorer: Scorer | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def of(cls, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 8) -> HFEngine:
        """An engine out of a model that is there already, such as the policy in training.

        Args:
            scorer: the model behind the core's forward pass; it is used as it is at each call.
            tokenizer: the model's.
            batch_size: prompts at a time.
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
        seed: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Complete prompts; see `Engine.generate` and `rollouts.hf.generate`."""
        return generate(
            self.scorer,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            batch_size=self.batch_size,
            stop=stop,
        )

    @torch.no_grad()
    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Weigh what may come next; see `Engine.token_logps`. The prompt is computed once for all candidates."""
        check_candidates(candidates)
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        endings = [self._endings(*both, candidates) for both in zip(prompts, encoded, strict=True)]
        longest = max((len(ids) for options in endings for ids in options), default=0)
        check_room(encoded, longest, self._config())
        order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
        found: dict[int, list[float]] = {}
        with gathered(self.scorer), evaluating(self.scorer):
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                sums = self._sums([encoded[index] for index in chosen], [endings[index] for index in chosen])
                for index, logps in zip(chosen, sums.split(len(candidates)), strict=True):
                    found[index] = _alone(logps, endings[index])
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

    def _endings(self, prompt: Prompt, ids: list[int], candidates: Sequence[str]) -> list[list[int]]:
        """The tokens of each candidate where it follows a prompt, which decides how a white space is written."""
        return [self._ending(prompt, ids, candidate) for candidate in candidates]

    def _ending(self, prompt: Prompt, ids: list[int], candidate: str) -> list[int]:
        whole = None
        if isinstance(prompt, str):
            whole = encode_prompt(self.tokenizer, prompt + candidate)
        elif prompt and isinstance(prompt[-1], dict) and prompt[-1]["role"] == "assistant":
            turns = cast("list[dict[str, str]]", prompt)
            last = {**turns[-1], "content": turns[-1]["content"] + candidate}
            whole = encode_prompt(self.tokenizer, [*turns[:-1], last])
        if whole is not None and len(whole) > len(ids) and whole[: len(ids)] == ids:
            return whole[len(ids) :]
        alone = list(self.tokenizer(candidate, add_special_tokens=False)["input_ids"])
        if not alone:
            raise ConfigError("a candidate has no tokens", got=repr(candidate), fix="give a text")
        return alone

    def _config(self) -> Any:
        model: Any = self.scorer.model
        return model.config


def check_candidates(candidates: Sequence[str]) -> None:
    """Refuse candidates that are not different texts.

    Raises:
        ConfigError: there are none, or two are the same.
    """
    if not candidates or len(set(candidates)) < len(candidates):
        raise ConfigError("candidates must be different texts", got=repr(list(candidates)), fix="name each once")


def _alone(logps: Tensor, endings: Sequence[list[int]]) -> list[float]:
    """Log-probabilities [K] of candidates without those of longer candidates that they begin."""
    chances = logps.double().exp()
    values = []
    for number, own in enumerate(endings):
        longer = [n for n, other in enumerate(endings) if len(other) > len(own) and other[: len(own)] == own]
        # A longer one that itself begins a third one holds that one's chance already.
        nearest = [n for n in longer if not any(m != n and endings[n][: len(endings[m])] == endings[m] for m in longer)]
        taken = chances[nearest].sum() / chances[number] if nearest else torch.zeros((), dtype=torch.float64)
        values.append((logps[number] + torch.log1p(-taken.clamp(max=1.0))).item())
    return values
