"""W2, the quality and length tree: a first token of some quality, then tokens that only make the response longer."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.worlds.base import World, expectation, generators
from evidence.worlds.data import Pairs, with_rewards

QUALITIES, MOST = 4, 11
PATHS = QUALITIES * (MOST + 1)


class Tree(World):
    """Response (q, c): quality token q, c times "continue", "stop"; after 11 continues the stop is certain.

    Reward = 0.6 q + bonus * length: labels that favour length, as human and model judges do. Pairs are not sampled:
    every pair counts with its exact probability. Seed 0 is the world with the round numbers of `_logits`; in the others
    they are shaken, so that a result is not one of these numbers alone.

    Args:
        seeds: number of seeds, from 0.
        bonus: reward of one token.
    """

    def __init__(self, seeds: int, bonus: float) -> None:
        self.seeds, self.bonus = seeds, bonus
        path = torch.arange(PATHS)
        self.quality, self.content = path // (MOST + 1), path % (MOST + 1)
        self.tokens = (self.content + 2).double()
        reward = 0.6 * self.quality + bonus * self.tokens
        self.reward = reward.expand(seeds, 1, PATHS)
        self.theta = torch.stack([self._logits(seed, generator) for seed, generator in enumerate(generators(seeds))])
        self.reference = self.table(self.state(self.theta))

    @staticmethod
    def _logits(seed: int, generator: torch.Generator) -> Tensor:
        """Logits [4, 12] of one seed: of the quality (0.6, 0.3, 0.1, 0) first, then of continuing (1) 11 times."""
        quality = torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
        logits = torch.cat([quality[:, None], torch.ones(QUALITIES, MOST, dtype=torch.float64)], dim=1)
        noise = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
        return logits + (0.2 * noise if seed else 0)

    def start(self) -> Tensor:
        """The reference's logits [S, 4, 12]."""
        return self.theta.clone()

    def state(self, theta: Tensor) -> Tensor:
        """Log-probability of each token of each path, [S, 48, 12]: quality, continues, stop; 0 after the stop."""
        first = theta[..., 0].log_softmax(-1)[:, self.quality, None]
        further = torch.nn.functional.logsigmoid(theta[..., 1:])[:, self.quality]
        stop = torch.nn.functional.logsigmoid(-theta[..., 1:])[:, self.quality]
        place, content = torch.arange(MOST), self.content[:, None]
        rest = torch.where(place < content, further, torch.where(place == content, stop, 0.0))
        return torch.cat([first, rest], dim=-1)

    @staticmethod
    def table(state: Tensor) -> Tensor:
        """Log-probabilities [S, 1, 48] of the paths."""
        return state.sum(-1)[:, None]

    def score(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Log-probabilities [B], nats."""
        return state.sum(-1)[seed, response]

    def public(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [B] of the first `tokens` [B] tokens, nats."""
        so_far = torch.nn.functional.pad(state.cumsum(-1), (1, 1))
        # The 13th token of the longest paths is the certain stop, which adds nothing.
        so_far = torch.cat([so_far[..., :-1], so_far[..., -2:-1]], dim=-1)
        return so_far[seed, response, tokens.long()]

    def lengths(self, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Numbers of tokens [B], with the quality token and the stop."""
        return self.tokens[response]

    def pairs(self) -> Pairs:
        """Every ordered pair, with the probability that the reference draws it and that it is so labelled."""
        index = torch.cartesian_prod(torch.arange(self.seeds), torch.arange(PATHS), torch.arange(PATHS))
        seed, chosen, rejected = index[index[:, 1] != index[:, 2]].T
        prompt = torch.zeros_like(seed)
        drawn = self.reference[seed, prompt, chosen] + self.reference[seed, prompt, rejected]
        weights = drawn.exp() * (self.reward[seed, prompt, chosen] - self.reward[seed, prompt, rejected]).sigmoid()
        weights = weights / torch.zeros(self.seeds, dtype=torch.float64).index_add_(0, seed, weights)[seed]
        return with_rewards(Pairs(seed, prompt, chosen, rejected, weights=weights), self.reward)

    def length(self, state: Tensor) -> Tensor:
        """Mean length of responses without their stop, [S], tokens."""
        return expectation(self.table(state), self.tokens) - 1

    def mean_quality(self, state: Tensor) -> Tensor:
        """Mean quality, [S], 0 to 3."""
        return expectation(self.table(state), self.quality.double())
