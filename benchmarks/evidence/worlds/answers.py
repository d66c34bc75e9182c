"""Answers for reward models: as vectors of features, or as texts; raters follow Bradley-Terry on a hidden quality."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidence.worlds.base import generators


class Compared(NamedTuple):
    """Pairs of answers, the better one first."""

    chosen: Tensor
    """[S, N, ...], features or tokens."""
    rejected: Tensor
    """[S, N, ...]."""
    gap: Tensor
    """[S, N], true quality of the chosen answer less that of the rejected one; negative where the raters err."""

    def take(self, number: int) -> Compared:
        """The first pairs of each seed."""
        return Compared(*(part[:, :number] for part in self))


class Answers:
    """Answers with normal features; quality is linear in them, or bent.

    Args:
        seeds: number of seeds, from 0.
        dimensions: number of features.
        scale: spread of the quality.
        bend: weight of a part of the quality that no linear function follows.
        offset: spread of what both answers to a prompt share, in every feature.
    """

    def __init__(
        self, seeds: int, dimensions: int = 10, scale: float = 2.0, bend: float = 0.0, offset: float = 0.0
    ) -> None:
        self.seeds, self.dimensions, self.scale, self.bend, self.offset = seeds, dimensions, scale, bend, offset
        self.generators = generators(seeds)
        directions = self.normal(2, dimensions)
        self.taste, self.fold = (directions / directions.norm(dim=-1, keepdim=True)).unbind(1)

    def normal(self, *shape: int) -> Tensor:
        """Normal draws of all seeds, [S, ...]."""
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws of all seeds, [S, ...]."""
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float64) for g in self.generators])

    def quality(self, features: Tensor) -> Tensor:
        """What raters compare, [S, ...] of features [S, ..., d]."""
        straight, folded = (torch.einsum("s...d,sd->s...", features, way) for way in (self.taste, self.fold))
        return self.scale * (straight + self.bend * folded.abs())

    def answers(self, number: int, each: int) -> Tensor:
        """Features [S, number, each, d] of some answers to each of some prompts."""
        shared = self.offset * self.normal(number, 1, self.dimensions)
        return self.normal(number, each, self.dimensions) + shared

    def pairs(self, number: int, raters: bool = True) -> Compared:
        """Random pairs.

        Args:
            number: per seed.
            raters: whether raters choose, by Bradley-Terry; otherwise the better answer is chosen.
        """
        return self.rated(self.answers(number, 2), raters)

    def rated(self, answers: Tensor, raters: bool = True) -> Compared:
        """Two answers [S, N, 2, d] to each prompt in the order that raters, or the truth, give them."""
        gap = torch.sub(*self.quality(answers).unbind(2))
        wins = self.uniform(gap.shape[1]) < gap.sigmoid() if raters else gap > 0
        first = torch.where(wins, 0, 1)
        index = torch.stack([first, 1 - first], 2)[..., None].expand_as(answers)
        chosen, rejected = answers.gather(2, index).unbind(2)
        return Compared(chosen, rejected, torch.where(wins, gap, -gap))


class Sampled(Answers):
    """Answers with features that no training pair has; in samples they are heavy-tailed, and gold loses by them.

    Args:
        seeds: number of seeds, from 0.
        unseen: number of such features.
    """

    cost = 0.5
    """What a unit of such a feature takes from the gold quality."""

    def __init__(self, seeds: int, unseen: int) -> None:
        self.unseen = unseen
        super().__init__(seeds)

    def padded(self, features: Tensor, tails: Tensor | None = None) -> Tensor:
        """Features with the unseen ones behind them, 0 where `tails` is None."""
        more = torch.zeros(*features.shape[:-1], self.unseen, dtype=torch.float64) if tails is None else tails
        return torch.cat([features, more], -1)

    def samples(self, prompts: int, number: int) -> tuple[Tensor, Tensor]:
        """Answers [S, prompts, number, d], and what they are worth, [S, prompts, number]."""
        seen = self.answers(prompts, number)
        tails = self.normal(prompts, number, self.unseen)
        # Student's t with three degrees of freedom.
        tails = tails / self.normal(prompts, number, 3).square().mean(-1, keepdim=True).sqrt()
        return self.padded(seen, tails), self.quality(seen) - self.cost * tails.abs().sum(-1)


def agreement(margins: Tensor, gap: Tensor) -> Tensor:
    """How often a fresh rater agrees with a reward model, exactly; of a model without error, the best there is.

    Args:
        margins: [S, N] differences of scores; a tie is no agreement.
        gap: [S, N] differences of quality of the same answers.

    Returns:
        [S], shares.
    """
    return torch.where(margins == 0, 0.0, (margins.sign() * gap).sigmoid()).mean(1)


def order_accuracy(margins: Tensor, gap: Tensor) -> Tensor:
    """Shares [S] of pairs [S, N] whose order by score is that by quality."""
    return (margins * gap > 0).double().mean(1)


def rater_loss(margins: Tensor, gap: Tensor) -> Tensor:
    """Expected negative log-likelihood [S] of fresh raters' choices on pairs [S, N], nats."""
    likes = gap.sigmoid()
    choices = torch.nn.functional.logsigmoid(margins), torch.nn.functional.logsigmoid(-margins)
    return -(likes * choices[0] + (1 - likes) * choices[1]).mean(1)


class Texts:
    """Texts of random tokens; every token has a value, and the quality of a text is their sum.

    Args:
        seeds: number of seeds, from 0.
        vocabulary: number of tokens.
        length: tokens of a text.
        scale: spread of the quality of a whole text.
    """

    def __init__(self, seeds: int, vocabulary: int = 50, length: int = 12, scale: float = 2.0) -> None:
        self.vocabulary, self.length = vocabulary, length
        self.generators = generators(seeds)
        values = torch.stack([torch.randn(vocabulary, generator=g, dtype=torch.float64) for g in self.generators])
        self.values = values * scale / length**0.5

    def pairs(self, number: int, shared: int = 0) -> Compared:
        """Random pairs, in the order that raters give them.

        Args:
            number: per seed.
            shared: most tokens with which both texts begin; how many it is differs.
        """
        drawn = [self._draw(generator, number, shared) for generator in self.generators]
        texts, draws = (torch.stack(part) for part in zip(*drawn, strict=True))
        gap = torch.sub(*self.worth(texts)[..., -1].unbind(2))
        wins = draws < gap.sigmoid()
        chosen, rejected = torch.where(wins[..., None, None], texts, texts.flip(2)).unbind(2)
        return Compared(chosen, rejected, torch.where(wins, gap, -gap))

    def _draw(self, generator: torch.Generator, number: int, shared: int) -> tuple[Tensor, Tensor]:
        texts = torch.randint(self.vocabulary, (number, 2, self.length), generator=generator)
        common = torch.randint(shared + 1, (number, 1), generator=generator)
        texts[:, 1] = torch.where(torch.arange(self.length) < common, texts[:, 0], texts[:, 1])
        return texts, torch.rand(number, generator=generator, dtype=torch.float64)

    def worth(self, texts: Tensor) -> Tensor:
        """Values of texts [S, ..., T] up to each token, [S, ..., T]."""
        seed = torch.arange(len(texts)).view(-1, *[1] * (texts.dim() - 1))
        return self.values[seed, texts].cumsum(-1)
