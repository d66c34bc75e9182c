"""What the core hands to a method, and what a method hands back."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from torch import Tensor


class SequenceLogps(NamedTuple):
    """Log-probabilities of whole responses."""

    sums: Tensor
    """[B] float64, nats, summed over the scored tokens."""
    lengths: Tensor
    """[B], number of scored tokens."""

    @property
    def means(self) -> Tensor:
        """[B], nats per token."""
        return self.sums / self.lengths.clamp(min=1)


class PairLogps(NamedTuple):
    """Log-probabilities of pairs of responses."""

    chosen: Tensor
    """[B] float64, nats, summed over the completion."""
    rejected: Tensor
    """[B] float64, nats."""
    chosen_lengths: Tensor
    """[B], number of completion tokens."""
    rejected_lengths: Tensor
    """[B]."""
    prompt: Tensor | None = None
    """[B] float64, nats, log-probability of the prompt; only for methods that ask for it."""
    prompt_lengths: Tensor | None = None
    """[B], number of scored prompt tokens."""

    def mean(self) -> PairLogps:
        """The same per token: each response divided by its own length."""
        return self._replace(
            chosen=self.chosen / self.chosen_lengths.clamp(min=1),
            rejected=self.rejected / self.rejected_lengths.clamp(min=1),
        )


class Per(str, Enum):
    """What a sum of loss values is divided by, counted over ranks and accumulation."""

    EXAMPLES = "examples"
    TOKENS = "tokens"


class Term(NamedTuple):
    """One additive part of a loss, before any reduction."""

    values: Tensor
    """[B] with gradient; summed by the base class."""
    per: Per = Per.EXAMPLES
