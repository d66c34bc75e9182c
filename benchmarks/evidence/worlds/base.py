"""What a world is: responses whose log-probabilities under a small policy can be computed exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from evidence.worlds.data import Data, Labels, Lists, Pairs
from lit_align.core.outputs import ListLogps, PairLogps, PairValues, SequenceLogps


def generators(seeds: int, offset: int = 0) -> list[torch.Generator]:
    """One random generator per seed."""
    return [torch.Generator().manual_seed(offset + seed) for seed in range(seeds)]


class World(ABC):
    """Prompts, responses and a policy with parameters theta; several seeds at once, first dimension S.

    A `state` is whatever `state(theta)` returns: the policy in the form from which responses are scored.
    """

    seeds: int

    @abstractmethod
    def start(self) -> Tensor:
        """Parameters of the reference, [S, ...]."""

    @abstractmethod
    def state(self, theta: Tensor) -> Tensor:
        """The policy of `theta`, with gradient, [S, ...]."""

    def behind(self, theta: Tensor) -> Tensor:
        """The reference of `theta`: the policy itself, where a world does not say otherwise."""
        return self.state(theta)

    @abstractmethod
    def score(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Summed log-probabilities [B] of responses, nats."""

    def lengths(self, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Numbers of tokens [B]; 1 where responses are atoms."""
        return torch.ones(response.shape, dtype=torch.float64)

    def public(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [B] of the first `tokens` [B] tokens of responses, nats."""
        return self.score(state, seed, prompt, response)

    def next_token(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, T, V] at every token of responses, and the tokens [B, T] that stand there."""
        raise NotImplementedError(f"{type(self).__name__} has no vocabulary")

    # ------------------------------------------------------------------ inputs of methods

    def inputs(self, state: Tensor, data: Data, public: bool = False) -> PairLogps | SequenceLogps | ListLogps:
        """What a method gets of `data` under the policy `state`.

        Args:
            state: the policy.
            data: B examples.
            public: whether pairs also get the sums over their first tokens, up to the length of the shorter response.
        """
        seed, prompt = data.seed, data.prompt
        if isinstance(data, Pairs):
            sides = data.chosen, data.rejected
            lengths = [self.lengths(seed, prompt, side) for side in sides]
            pairs = PairLogps(*(self.score(state, seed, prompt, side) for side in sides), *lengths)
            if data.target is not None:
                pairs = pairs._replace(
                    target=self.score(state, seed, prompt, data.target),
                    target_lengths=self.lengths(seed, prompt, data.target),
                )
            if not public:
                return pairs
            first = [self.public(state, seed, prompt, side, torch.minimum(*lengths)) for side in sides]
            return pairs._replace(chosen_public=first[0], rejected_public=first[1])
        if isinstance(data, Lists):
            seed, prompt = seed[:, None].expand_as(data.responses), prompt[:, None].expand_as(data.responses)
            mask = torch.ones_like(data.responses, dtype=torch.bool)
            return ListLogps(
                self.score(state, seed, prompt, data.responses), self.lengths(seed, prompt, data.responses), mask
            )
        sums = self.score(state, seed, prompt, data.response)
        return SequenceLogps(sums, self.lengths(seed, prompt, data.response))

    def feature(self, feature, state: Tensor, reference: Tensor, data: Data) -> PairValues | Tensor:
        """A token feature of the product, summed over responses: of pairs, or [B] of single responses."""
        if isinstance(data, Pairs):
            return PairValues(
                *(self._feature(feature, state, reference, data, part) for part in (data.chosen, data.rejected))
            )
        return self._feature(feature, state, reference, data, data.response)

    def _feature(self, feature, state: Tensor, reference: Tensor, data: Data, response: Tensor) -> Tensor:
        logits, tokens = self.next_token(state, data.seed, data.prompt, response)
        behind = self.next_token(reference, data.seed, data.prompt, response)[0] if feature.needs_reference else None
        values = feature(logits.flatten(0, 1), tokens.flatten(), None if behind is None else behind.flatten(0, 1))
        return values.view(tokens.shape).sum(-1)

    def mismatched(self, state: Tensor, reference: Tensor, labels: Labels) -> Tensor:
        """Mean log-ratio of each prompt with the next example's response, at least 0; scalar, nats, no gradient."""
        with torch.no_grad():
            other = labels.response.roll(-1)
            ratios = self.score(state, labels.seed, labels.prompt, other)
            ratios = ratios - self.score(reference, labels.seed, labels.prompt, other)
            return ratios.mean().clamp(min=0)


class TableWorld(World):
    """Worlds whose responses can be listed: the state is their log-probabilities [S, P, V]."""

    def score(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Log-probabilities [B], nats."""
        return state[seed, prompt, response]

    def next_token(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """A response is one token of a vocabulary of responses."""
        return state[seed, prompt][:, None], response[:, None]


def expectation(state: Tensor, values: Tensor) -> Tensor:
    """Mean of `values` [S, P, V] under the policy, over prompts, [S]."""
    return (state.exp() * values).sum(-1).mean(-1)


def entropy(state: Tensor) -> Tensor:
    """Mean entropy of the policy, [S], nats."""
    return -expectation(state, state)


def kl(state: Tensor, reference: Tensor) -> Tensor:
    """Mean KL(state || reference), [S], nats."""
    return expectation(state, state - reference)


def per_seed(values: Tensor, data: Data, seeds: int) -> Tensor:
    """Means [S] of values [B] over the examples of each seed."""
    counts = torch.bincount(data.seed, minlength=seeds)
    return torch.zeros(seeds, dtype=values.dtype).index_add_(0, data.seed, values) / counts
