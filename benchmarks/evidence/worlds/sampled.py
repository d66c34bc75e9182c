"""T5 and T6, tabular bandits with sampled preferences: kinds of feedback; labels that favour length or are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.worlds.base import expectation, generators, kl
from evidence.worlds.data import Labels, Pairs
from evidence.worlds.tabular import Tabular


def uniform(shape: tuple[int, ...]) -> Tensor:
    """Log-probabilities of the indifferent reference."""
    return torch.zeros(shape, dtype=torch.float64).log_softmax(-1)


def regret(state: Tensor, reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """How much the policy's E[reward] - beta KL falls short of the best possible, [S]."""
    best = beta * (reference + reward / beta).logsumexp(-1).mean(-1)
    return best - (expectation(state, reward) - beta * kl(state, reference))


class Feedback(Tabular):
    """T5: 8 prompts, 10 responses; the same response pairs judged in three ways.

    Rewards are centred so that E_ref exp(reward / beta) = 1, as UNA assumes.

    Args:
        seeds: number of seeds, from 0.
        number: response pairs per seed.
        beta: scale of the implicit reward.
    """

    prompts, responses = 8, 10

    def __init__(self, seeds: int, number: int, beta: float = 0.5) -> None:
        self.generators = generators(seeds)
        shape = (self.prompts, self.responses)
        reward = torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])
        reference = uniform(reward.shape)
        reward = reward - beta * (reference + reward / beta).logsumexp(-1, keepdim=True)
        super().__init__(reference, reward)
        rows = [self._draw(generator, number) for generator in self.generators]
        prompt, one, two = (torch.cat(column) for column in zip(*rows, strict=True))
        self.seed = torch.arange(seeds).repeat_interleave(number)
        self.prompt, self.one, self.two = prompt, one, two

    def _draw(self, generator: torch.Generator, number: int) -> tuple[Tensor, Tensor, Tensor]:
        prompt = torch.randint(0, self.prompts, (number,), generator=generator)
        one = torch.randint(0, self.responses, (number,), generator=generator)
        shift = torch.randint(1, self.responses, (number,), generator=generator)
        return prompt, one, (one + shift) % self.responses

    def _per_seed(self, sample) -> Tensor:
        """Draws of all seeds, each from its own generator."""
        number = len(self.seed) // self.seeds
        return torch.cat([sample(number, generator=generator, dtype=torch.float64) for generator in self.generators])

    def pairs(self) -> Pairs:
        """Which of two is better, by Bradley-Terry."""
        gap = self.reward[self.seed, self.prompt, self.one] - self.reward[self.seed, self.prompt, self.two]
        wins = self._per_seed(torch.rand) < gap.sigmoid()
        chosen, rejected = torch.where(wins, self.one, self.two), torch.where(wins, self.two, self.one)
        return Pairs(self.seed, self.prompt, chosen, rejected)

    def _both(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Seeds, prompts and responses of single responses, and their rewards."""
        seed = torch.cat([self.seed, self.seed])
        order = seed.argsort(stable=True)
        prompt, response = self.prompt.repeat(2)[order], torch.cat([self.one, self.two])[order]
        return seed[order], prompt, response, self.reward[seed[order], prompt, response]

    def binary(self) -> Labels:
        """Thumbs up with probability sigmoid(reward)."""
        seed, prompt, response, reward = self._both()
        draws = torch.stack([self._per_seed(torch.rand) for _ in range(2)]).view(2, self.seeds, -1)
        return Labels(seed, prompt, response, draws.transpose(0, 1).flatten() < reward.sigmoid())

    def scores(self, noise: float = 0.3) -> Labels:
        """A score in (0, 1): the sigmoid of the reward with some noise."""
        seed, prompt, response, reward = self._both()
        error = torch.stack([self._per_seed(torch.randn) for _ in range(2)]).view(2, self.seeds, -1)
        return Labels(seed, prompt, response, score=(reward + noise * error.transpose(0, 1).flatten()).sigmoid())


class Corrupted(Tabular):
    """T6: labels follow quality + 0.05 * length, and some clear ones are turned round; wanted is quality alone.

    Args:
        seeds: number of seeds, from 0.
        number: pairs per seed.
        corruption: probability that a pair with a gap above 2 has the wrong label.
    """

    prompts, responses = 4, 10
    verbosity = 0.05

    def __init__(self, seeds: int, number: int = 2000, corruption: float = 0.3) -> None:
        shape = (self.prompts, self.responses)
        self.number, self.corruption = number, corruption
        self.generators = generators(seeds)
        self.quality = torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])
        lengths = torch.stack([torch.randint(5, 60, shape, generator=g) for g in self.generators]).double()
        super().__init__(uniform(lengths.shape), self.quality + self.verbosity * lengths, lengths)

    def pairs(self) -> Pairs:
        """Random pairs of different responses."""
        rows = []
        for seed, generator in enumerate(self.generators):
            prompt = torch.randint(0, self.prompts, (self.number,), generator=generator)
            one = torch.randint(0, self.responses, (self.number,), generator=generator)
            two = (one + torch.randint(1, self.responses, (self.number,), generator=generator)) % self.responses
            gap = self.reward[seed, prompt, one] - self.reward[seed, prompt, two]
            draws = torch.rand(2, self.number, generator=generator, dtype=torch.float64)
            wrong = (draws[1] < self.corruption) & (gap.abs() > 2)
            wins = torch.where(wrong, gap < 0, draws[0] < gap.sigmoid())
            chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
            rows.append((torch.full_like(prompt, seed), prompt, chosen, rejected))
        return Pairs(*(torch.cat(column) for column in zip(*rows, strict=True)))
