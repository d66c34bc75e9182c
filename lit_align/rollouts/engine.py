"""What writes text and weighs the next word: the two things that judges and loops ask of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lit_align.core.errors import AlignError, ConfigError, DataError

Prompt = str | list[dict[str, Any]] | list[int]
"""Plain text, a conversation, or token ids. A conversation that ends with an assistant's turn is gone on with."""


class Completion(NamedTuple):
    """What the model wrote after a prompt."""

    prompt: Prompt
    """As it was given."""
    text: str
    """Without special tokens and without the stop string."""
    ids: list[int]
    """Generated tokens; with EOS or the tokens of the stop string, if one of them ended it."""
    finished: bool
    """Whether the model came to an end, rather than to `max_new_tokens`."""
    logps: list[float] | None = None
    """Log-probability of each generated token under the model at temperature 1, from all tokens, nats; if asked for."""


class PromptError(DataError):
    """Prompts that a model cannot complete.

    Args:
        refused: why, by the number of the prompt, from 1.
        value: what is wrong with the first of them.
        fix: what to do about it.
    """

    def __init__(self, refused: Mapping[int, str], *, value: str | None = None, fix: str = "") -> None:
        self.refused = dict(refused)
        row, what = next(iter(self.refused.items()))
        super().__init__(what, row=row, value=value, fix=fix)


class EngineError(AlignError, RuntimeError):
    """An engine outside of this process, or a library's, that does not do what it was asked."""


@runtime_checkable
class Engine(Protocol):
    """A language model behind two calls; any object that has them will do, whatever library it wraps.

    A class that is to be named in a configuration needs the same types as here on its methods.
    """

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
        """Complete prompts.

        Args:
            prompts: what to complete.
            max_new_tokens: longest completion, tokens.
            temperature: 0 takes the likeliest token each time; 1 samples from the model.
            top_p: sample from the likeliest tokens that have this probability together.
            top_k: sample from this many of the likeliest tokens; None: from all.
            min_p: sample from tokens that have at least this share of the likeliest token's probability.
            seed: the i-th completion's random numbers follow from (seed, i); or one seed for each completion.
            samples: completions of each prompt.
            stop: strings that end a completion.
            logps: give the log-probabilities of the generated tokens.

        Returns:
            `samples` completions of the first prompt, then of the second, and so on.

        Raises:
            PromptError: prompts are empty or too long.
        """
        ...

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Weigh what may come next.

        Args:
            prompts: what is to be gone on with.
            candidates: texts that may follow, such as " A" and " B"; a white space in front counts.

        Returns:
            For each prompt, the log-probability of each candidate, nats. Of a candidate that begins another one, as
            "1" begins "10", it is that of being followed by something else than what makes the other.

        Raises:
            PromptError: prompts are empty or too long.
        """
        ...


@runtime_checkable
class SyncedEngine(Engine, Protocol):
    """An engine with weights of its own, which have to follow those of the policy in training."""

    def sync(self, folder: Path) -> None:
        """Take over weights.

        Args:
            folder: a Hugging Face model, or an adapter of the model that the engine has; it stays there until the next
                call.

        Raises:
            ConfigError: the engine cannot load them.
        """
        ...


def seeds_of(seed: int | Sequence[int], completions: int) -> list[int]:
    """One seed for each completion.

    Args:
        seed: a number, of which and of a completion's place its seed is made; or the seeds.
        completions: how many there will be.

    Raises:
        ConfigError: there are more or fewer seeds.
    """
    seeds = [seed * 1_000_003 + index for index in range(completions)] if isinstance(seed, int) else list(seed)
    if len(seeds) != completions:
        raise ConfigError(
            "every completion needs a seed of its own",
            got=f"{len(seeds)} seeds, {completions} completions",
            fix="give as many seeds as completions, or a single number",
        )
    return seeds
