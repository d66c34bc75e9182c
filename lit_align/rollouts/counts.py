"""How much was generated, how fast, and what went wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from lit_align.rollouts.engine import Completion, PromptError


@dataclass
class GenerationCounts:
    """What an engine has generated since it was made, or since somebody put fresh counts in."""

    prompts: int = 0
    """Prompts that were completed."""
    completions: int = 0
    tokens: int = 0
    """Generated ones, with those that end completions."""
    seconds: float = 0.0
    """Of the clock, that generating took."""
    empty: int = 0
    """Completions without any text."""
    unfinished: int = 0
    """Completions that were cut off at `max_new_tokens`."""
    refused: int = 0
    """Prompts that are empty, or leave no room for a completion; nothing was generated for the call they came in."""

    @property
    def tokens_per_second(self) -> float:
        """Speed; 0 before anything was generated."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def mean_tokens(self) -> float:
        """Length of a completion; 0 before anything was generated."""
        return self.tokens / self.completions if self.completions else 0.0

    def add(self, completions: Sequence[Completion], *, prompts: int = 0, seconds: float = 0.0) -> None:
        """Count completions.

        Args:
            completions: new ones.
            prompts: how many prompts they answer.
            seconds: that they took.
        """
        self.prompts += prompts
        self.completions += len(completions)
        self.tokens += sum(len(completion.ids) for completion in completions)
        self.seconds += seconds
        self.empty += sum(not completion.text.strip() for completion in completions)
        self.unfinished += sum(not completion.finished for completion in completions)

    @contextmanager
    def of_call(self, prompts: int) -> Iterator[list[Completion]]:
        """Count what a call generates: it puts its completions into the list that it gets.

        Args:
            prompts: how many it was asked to complete.
        """
        completions: list[Completion] = []
        started = time.perf_counter()
        try:
            yield completions
        except PromptError as error:
            self.refused += len(error.refused)
            raise
        self.add(completions, prompts=prompts, seconds=time.perf_counter() - started)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for a report."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second, "mean_tokens": self.mean_tokens}

    def __str__(self) -> str:
        words = [f"{self.tokens_per_second:.0f} tokens/s", f"{self.mean_tokens:.0f} tokens on average"]
        words += [f"{number} {name}" for name in ("empty", "unfinished", "refused") if (number := getattr(self, name))]
        return ", ".join(words)
