"""What the core hands to a method, and what a method hands back."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from lit_align.core.batch import Counts


class SequenceLogps(NamedTuple):
    """Log-probabilities of whole responses."""

    sums: Tensor
    """[B] float64, nats, summed over the scored tokens."""
    lengths: Tensor
    """[B], number of scored tokens."""
    tokens: Tensor | None = None
    """[N], the single log-probabilities, response by response; None where only sums are known."""

    @property
    def means(self) -> Tensor:
        """[B], nats per token."""
        return self.sums / self.lengths.clamp(min=1)

    def logratios(self, reference: SequenceLogps) -> Tensor:
        """[B], log of the policy's probability over the reference's, nats."""
        return self.sums - reference.sums


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
    chosen_public: Tensor | None = None
    """[B] float64, nats, over the first tokens of the chosen response, as many as the shorter of the pair has."""
    rejected_public: Tensor | None = None
    """[B] float64, nats."""
    target: Tensor | None = None
    """[B] float64, nats, log-probability of the text to stay close to; only for methods that ask for it."""
    target_lengths: Tensor | None = None
    """[B], number of its tokens."""

    def mean(self) -> PairLogps:
        """The same per token: each response divided by its own length."""
        return self._replace(
            chosen=self.chosen / self.chosen_lengths.clamp(min=1),
            rejected=self.rejected / self.rejected_lengths.clamp(min=1),
        )

    def logratios(self, reference: PairLogps) -> PairLogps:
        """Logs of the policy's probabilities over the reference's, of chosen and rejected, nats."""
        return self._replace(chosen=self.chosen - reference.chosen, rejected=self.rejected - reference.rejected)

    @property
    def close_to(self) -> Tensor:
        """[B], log-probability of the text to stay close to: the target, or the chosen response where none has one."""
        return self.chosen if self.target is None else self.target

    @property
    def margins(self) -> Tensor:
        """[B], chosen minus rejected."""
        return self.chosen - self.rejected


class PairValues(NamedTuple):
    """Sums of a token feature over the responses of pairs."""

    chosen: Tensor
    """[B] float64."""
    rejected: Tensor
    """[B] float64."""


class ListLogps(NamedTuple):
    """Log-probabilities of lists of responses, best response first."""

    sums: Tensor
    """[B, K] float64, nats, summed over the completion; 0 where a list is shorter."""
    lengths: Tensor
    """[B, K], number of completion tokens; 0 where a list is shorter."""
    mask: Tensor
    """[B, K] bool, where a list has a response."""

    @property
    def means(self) -> Tensor:
        """[B, K], nats per token."""
        return self.sums / self.lengths.clamp(min=1)

    def logratios(self, reference: ListLogps) -> Tensor:
        """[B, K], log of the policy's probability over the reference's, nats; 0 where a list is shorter."""
        return self.sums - reference.sums


class AlignedLogps(NamedTuple):
    """Log-probabilities of the tokens of completions, each after its prompt and after a prompt with a judgment."""

    plain: Tensor
    """[N], nats, after the prompt as it is."""
    judged: Tensor
    """[N], nats, after the prompt with the judgment."""
    example: Tensor
    """[N] int64 in 0..B-1, the example of each token."""


class Per(str, Enum):
    """What a sum of loss values is divided by, counted over ranks and accumulation."""

    EXAMPLES = "examples"
    TOKENS = "tokens"
    UNDESIRABLE = "undesirable"
    DESIRABLE_TOKENS = "desirable_tokens"
    TARGET_TOKENS = "target_tokens"
    HUMAN = "human"
    GAME = "game"


class Term(NamedTuple):
    """One additive part of a loss, before any reduction."""

    values: Tensor
    """[B] with gradient; summed by the base class."""
    per: Per = Per.EXAMPLES


def reduce_terms(terms: Mapping[str, Term], counts: Counts) -> Tensor:
    """Sum of all terms, each divided by its own denominator; scalar with gradient, nats."""
    parts = []
    for term in terms.values():
        total = term.values.sum()
        count = torch.as_tensor(getattr(counts, term.per.value), dtype=total.dtype, device=total.device)
        parts.append(total / count.clamp(min=1))
    return torch.stack(parts).sum()
