"""T2 and T3: prompts with two responses each, and a policy that is linear in what sets the two apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evidence.worlds.base import TableWorld, generators
from evidence.worlds.data import Pairs


class TwoResponses(TableWorld):
    """Log-odds of response 0 over response 1 = features . theta; the reference is indifferent.

    Args:
        features: [S, N, d] of each prompt, response 0 minus response 1.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.seeds = len(features)

    def start(self) -> Tensor:
        """Zeros [S, d]."""
        return torch.zeros(self.seeds, self.features.shape[-1], dtype=torch.float64)

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, N, 2]."""
        odds = torch.einsum("snd,sd->sn", self.features, theta)
        return torch.stack([odds, torch.zeros_like(odds)], -1).log_softmax(-1)

    def pairs(self, first_wins: Tensor, facts: dict[str, Tensor] | None = None) -> Pairs:
        """One pair per prompt.

        Args:
            first_wins: [S, N] bool, whether response 0 is the chosen one.
            facts: further [S, N] values for methods that ask.
        """
        number = self.features.shape[1]
        seed, prompt = torch.cartesian_prod(torch.arange(self.seeds), torch.arange(number)).T
        chosen = (~first_wins).long().flatten()
        named = {name: values.flatten() for name, values in (facts or {}).items()}
        return Pairs(seed, prompt, chosen, 1 - chosen, {"source_rows": prompt + 1, **named})


class NoisyPairs:
    """T2: features with heavy tails, so that some pairs have much leverage; true order = sign(features . taste).

    Args:
        seeds: number of seeds, from 0.
        train: pairs per seed to train on.
        test: clean pairs per seed to measure on.
        dimensions: of the features.
    """

    def __init__(self, seeds: int, train: int = 400, test: int = 4000, dimensions: int = 20) -> None:
        drawn = [self._draw(generator, train + test, dimensions) for generator in generators(seeds)]
        features, self.taste, draws = (torch.stack(part) for part in zip(*drawn, strict=True))
        self.draws = draws[:, :train]
        self.train = TwoResponses(features[:, :train])
        self.test = features[:, train:]

    @staticmethod
    def _draw(generator: torch.Generator, number: int, dimensions: int) -> tuple[Tensor, Tensor, Tensor]:
        normal = torch.randn(number, dimensions, generator=generator, dtype=torch.float64)
        # Student's t with two degrees of freedom: a normal over the root of the mean of two squared normals.
        spread = torch.randn(number, 2, generator=generator, dtype=torch.float64).square().mean(1, keepdim=True)
        taste = torch.randn(dimensions, generator=generator, dtype=torch.float64)
        return normal / spread.sqrt(), taste, torch.rand(number, generator=generator, dtype=torch.float64)

    def pairs(self, flips: float) -> Pairs:
        """The training pairs with a share of flipped labels; the flips of 10 % are among those of 20 %."""
        truth = torch.einsum("snd,sd->sn", self.train.features, self.taste) > 0
        flipped = self.draws < flips
        return self.train.pairs(truth ^ flipped, {"flipped": flipped})

    def accuracy(self, theta: Tensor) -> Tensor:
        """Share of clean test pairs in the right order, [S]."""
        mine, true = (torch.einsum("snd,sd->sn", self.test, direction) for direction in (theta, self.taste))
        return (mine * true > 0).double().mean(1)


class Drift:
    """T3: what is preferred turns by 90 degrees between times 33 and 66 of 100, or stays as it is.

    Args:
        seeds: number of seeds, from 0.
        drifts: whether it turns.
        per_time: pairs at each time.
        test: pairs at the last time, to measure on.
    """

    times, actions = 100, 16

    def __init__(self, seeds: int, drifts: bool, per_time: int = 20, test: int = 2000) -> None:
        time = torch.arange(1, self.times + 1, dtype=torch.float64).repeat_interleave(per_time)
        angle = ((time - 33) / 33).clamp(0, 1) * math.pi / 2 * drifts
        last = angle[-1:].expand(test)
        rows = [self._draw(generator, angle) + self._draw(generator, last) for generator in generators(seeds)]
        features, wins, self.test, self.odds = (torch.stack(part) for part in zip(*rows, strict=True))
        self.train = TwoResponses(features)
        draws = torch.stack([torch.rand(len(time), generator=g, dtype=torch.float64) for g in generators(seeds, 1000)])
        self.pairs = self.train.pairs(draws < wins.sigmoid(), {"timestamp": time.expand(seeds, -1)})

    def _draw(self, generator: torch.Generator, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, 8] of random contexts and two random actions, and the log-odds [N] of the first."""
        x = torch.rand(len(angle), 4, generator=generator, dtype=torch.float64)
        action = torch.randint(1, self.actions + 1, (len(angle), 2, 1), generator=generator)
        features = torch.cat([action * (math.pi * x).cos()[:, None], (math.pi * x).sin()[:, None] / action], dim=-1)
        gap = features[:, 0] - features[:, 1]
        return gap, angle.cos() * gap[:, :4].sum(1) + angle.sin() * gap[:, 4:].sum(1)

    def accuracy(self, theta: Tensor) -> Tensor:
        """Share of test pairs, at the last time, in the right order, [S]."""
        mine = torch.einsum("snd,sd->sn", self.test, theta)
        differ = self.odds != 0
        return ((mine * self.odds > 0) & differ).double().sum(1) / differ.double().sum(1)
