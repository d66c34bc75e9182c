"""W1, the log-linear bandit: 16 prompts, 20 responses, a policy and a reward that are linear in shared features."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.worlds.base import TableWorld, generators
from evidence.worlds.data import Labels, Lists, Pairs, with_rewards

PROMPTS, RESPONSES, FEATURES = 16, 20, 6


class LogLinear(TableWorld):
    """Policy = reference * exp(X theta), renormalised; responses with like features move together.

    Args:
        features: X, [S, P, V, d].
        reference: [S, P, V] log-probabilities of the reference.
    """

    def __init__(self, features: Tensor, reference: Tensor) -> None:
        self.seeds = len(features)
        self.features, self.reference = features, reference

    def start(self) -> Tensor:
        """Zeros [S, d]: the reference."""
        return torch.zeros(self.seeds, self.features.shape[-1], dtype=torch.float64)

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, P, V]."""
        return (self.reference + self.value(theta)).log_softmax(-1)

    def value(self, direction: Tensor) -> Tensor:
        """X direction, [S, P, V], of a direction [S, d]."""
        return torch.einsum("spvd,sd->spv", self.features, direction)


class Bandit(LogLinear):
    """The world of most experiments.

    Args:
        seeds: number of seeds, from 0.
    """

    def __init__(self, seeds: int) -> None:
        self.generators = generators(seeds)
        drawn = [self._draw(generator) for generator in self.generators]
        features, base, taste = (torch.stack(part) for part in zip(*drawn, strict=True))
        super().__init__(features, torch.einsum("spvd,sd->spv", features, base).log_softmax(-1))
        self.reward = self.value(taste)

    @staticmethod
    def _draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        features = torch.randn(PROMPTS, RESPONSES, FEATURES, generator=generator, dtype=torch.float64)
        base = 0.5 * torch.randn(FEATURES, generator=generator, dtype=torch.float64)
        return features, base, torch.randn(FEATURES, generator=generator, dtype=torch.float64)

    def pairs(self, number: int = 256, reward: Tensor | None = None) -> Pairs:
        """Pairs drawn from the reference and labelled by Bradley-Terry; equal responses are dropped.

        Args:
            number: draws per seed, before equal ones are dropped.
            reward: [S, 16, 20] that the labels follow; the world's own where None.
        """
        reward = self.reward if reward is None else reward
        rows = []
        for seed, generator in enumerate(self.generators):
            probabilities = self.reference[seed].exp()
            prompt = torch.randint(0, PROMPTS, (number,), generator=generator)
            one, two = (torch.multinomial(probabilities[prompt], 1, generator=generator)[:, 0] for _ in range(2))
            differ = one != two
            prompt, one, two = prompt[differ], one[differ], two[differ]
            first = reward[seed, prompt, one] - reward[seed, prompt, two]
            wins = torch.rand(len(prompt), generator=generator) < first.sigmoid()
            chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
            rows.append((torch.full_like(prompt, seed), prompt, chosen, rejected))
        return with_rewards(Pairs(*(torch.cat(column) for column in zip(*rows, strict=True))), reward)

    def lists(self, length: int = 4) -> Lists:
        """For each prompt, some different responses at random with their exact rewards, best first."""
        rows = []
        for seed, generator in enumerate(self.generators):
            order = torch.stack([torch.randperm(RESPONSES, generator=generator) for _ in range(PROMPTS)])[:, :length]
            scores, places = self.reward[seed].gather(1, order).sort(dim=1, descending=True)
            prompt = torch.arange(PROMPTS)
            rows.append((torch.full_like(prompt, seed), prompt, order.gather(1, places), scores))
        return Lists(*(torch.cat(column) for column in zip(*rows, strict=True)))


def best_and_worst(lists: Lists) -> Pairs:
    """The first against the last response of each list."""
    return Pairs(lists.seed, lists.prompt, lists.responses[:, 0], lists.responses[:, -1])


def best(lists: Lists) -> Labels:
    """The first response of each list."""
    return Labels(lists.seed, lists.prompt, lists.responses[:, 0])


def ranking_accuracy(score: Tensor, reward: Tensor) -> Tensor:
    """Share of all pairs of responses to a prompt that `score` orders as `reward` does, [S]; both [S, P, V]."""
    upper = torch.triu(torch.ones(score.shape[-1], score.shape[-1], dtype=torch.bool), 1)
    agree = (score[..., :, None] - score[..., None, :]) * (reward[..., :, None] - reward[..., None, :]) > 0
    return agree[..., upper].double().mean((-1, -2))


def rank_correlation(score: Tensor, truth: Tensor) -> Tensor:
    """Spearman correlation, over all pairs of responses, of the gaps of `score` with those of `truth`, [S]."""
    upper = torch.triu(torch.ones(score.shape[-1], score.shape[-1], dtype=torch.bool), 1)

    def ranks(values: Tensor) -> Tensor:
        gaps = (values[..., :, None] - values[..., None, :])[..., upper].flatten(1)
        order = gaps.argsort(dim=1).argsort(dim=1).double()
        return order - order.mean(1, keepdim=True)

    mine, true = ranks(score), ranks(truth)
    return (mine * true).sum(1) / (mine.square().sum(1) * true.square().sum(1)).sqrt()
