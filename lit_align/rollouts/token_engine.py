"""What engines of other libraries have in common: they are asked with token ids, and answer with token ids."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.core.pretrained import load_tokenizer
from lit_align.data.tokenizers import adjusted
from lit_align.rollouts.candidates import alone, check_candidates, endings_of
from lit_align.rollouts.counts import GenerationCounts
from lit_align.rollouts.encoding import check_room, encode_prompt, text_of
from lit_align.rollouts.engine import Completion, EngineError, Prompt, SyncedEngine, seeds_of
from lit_align.rollouts.sampling import Drawing


class Wish(NamedTuple):
    """How completions are to be made."""

    max_new_tokens: int
    drawing: Drawing
    stop: tuple[str, ...]
    logps: bool


class Request(NamedTuple):
    """One completion that is wished for."""

    ids: list[int]
    """Tokens of the prompt."""
    seed: int


class Answer(NamedTuple):
    """What an engine says to a request."""

    ids: list[int]
    """Generated tokens."""
    reason: str
    """Why it ended: `stop`, or `length`; anything else is a failure."""
    logps: list[float] | None


class TokenEngine(SyncedEngine, ABC):
    """Prompts to tokens and back; what lies between is the library's.

    Args:
        tokenizer: folder or hub name.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        revision: of the tokenizer on the hub.
        trust_remote_code: run code that comes with the tokenizer.
    """

    def __init__(
        self, tokenizer: str, chat_template: str | None, revision: str | None, trust_remote_code: bool
    ) -> None:
        self.tokenizer_name, self.chat_template = tokenizer, chat_template
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self.counts = GenerationCounts()
        self.progress: Callable[[Sequence[Completion]], None] | None = None
        """Told completions as they come; see `rollouts.progress`."""
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer with the chat template of the settings.

        Raises:
            ConfigError: it cannot be read.
        """
        if self._tokenizer is None:
            loaded = load_tokenizer(self.tokenizer_name, self.revision, self.trust_remote_code)
            self._tokenizer = adjusted(loaded, self.chat_template, None)
        return self._tokenizer

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
    ) -> list[Completion]:
        """Complete prompts; see `Engine.generate`. Samples of a prompt share what the engine keeps of prefixes."""
        wish = Wish(max_new_tokens, Drawing(temperature, top_p, top_k, min_p), tuple(stop), logps)
        wish.drawing.check()
        for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples)):
            if value < 1:
                raise ConfigError(f"cannot generate with this {name}", got=f"{name}: {value}", fix="give 1 or more")
        with self.counts.of_call(len(prompts)) as done:
            seeds = seeds_of(seed, len(prompts) * samples)
            encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
            if encoded:
                check_room(encoded, max_new_tokens, self._limit())
            requests = [Request(encoded[place // samples], own) for place, own in enumerate(seeds)]
            found: dict[int, Completion] = {}

            def hear(place: int, answer: Answer) -> None:
                found[place] = self._completion(prompts[place // samples], answer, wish)
                if self.progress is not None:
                    self.progress([found[place]])

            self._complete(requests, wish, hear)
            done += [found[place] for place in range(len(requests))]
        return done

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Weigh what may come next; see `Engine.token_logps`."""
        check_candidates(candidates)
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        if not encoded:
            return []
        endings = [endings_of(self.tokenizer, *both, candidates) for both in zip(prompts, encoded, strict=True)]
        # Engines generate one token behind what they weigh.
        check_room(encoded, max(len(ids) for options in endings for ids in options) + 1, self._limit())
        rows = [prompt + ending for prompt, options in zip(encoded, endings, strict=True) for ending in options]
        weighed = iter(self._weigh(rows))
        return [
            alone([math.fsum(next(weighed)[len(prompt) :]) for _ in options], options)
            for prompt, options in zip(encoded, endings, strict=True)
        ]

    def _completion(self, prompt: Prompt, answer: Answer, wish: Wish) -> Completion:
        if answer.reason not in ("stop", "length"):
            raise EngineError("a completion has failed", got=f"it ended because of {answer.reason!r}")
        if answer.logps is not None and len(answer.logps) != len(answer.ids):
            got = f"{len(answer.logps)} log-probabilities of {len(answer.ids)} tokens"
            raise EngineError("the engine's answer does not fit together", got=got)
        text = text_of(answer.ids, self.tokenizer, wish.stop)
        return Completion(prompt, text, answer.ids, answer.reason == "stop", answer.logps if wish.logps else None)

    @abstractmethod
    def sync(self, folder: Path) -> None:
        """Take over weights; see `SyncedEngine.sync`."""

    @abstractmethod
    def _limit(self) -> int | None:
        """Tokens that the model can see; None: it does not say."""

    @abstractmethod
    def _complete(self, requests: Sequence[Request], wish: Wish, hear: Callable[[int, Answer], None]) -> None:
        """Complete requests.

        Args:
            requests: at least none.
            wish: what holds for all of them.
            hear: to be called in this thread with each request's place and answer.
        """

    @abstractmethod
    def _weigh(self, rows: Sequence[list[int]]) -> list[list[float]]:
        """Log-probability of every token of every row, nats; what is given for a row's first one is not used."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model.

    Raises:
        ConfigError: it holds neither.
    """
    if (folder / "adapter_config.json").is_file():
        return True
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "an engine takes over weights from a Hugging Face folder",
            got=f"{folder}, without config.json or adapter_config.json",
            fix="export the policy there first",
        )
    return False
