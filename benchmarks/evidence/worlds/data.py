"""Preference data over a world's responses: indices of seeds, prompts and responses, never texts.

The examples of all seeds stand in one batch, sorted by seed, so that one forward pass serves all seeds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_FACTS: dict[str, Tensor] = {}


class Pairs(NamedTuple):
    """Pairs of responses to one prompt each."""

    seed: Tensor
    """[B] int64, ascending."""
    prompt: Tensor
    """[B] int64."""
    chosen: Tensor
    """[B] int64."""
    rejected: Tensor
    """[B] int64."""
    facts: dict[str, Tensor] = NO_FACTS
    """What methods may ask for by name (margin, timestamp ...), each [B]."""
    weights: Tensor | None = None
    """[B], probability of each pair; sums to 1 per seed. None for pairs that count alike."""
    target: Tensor | None = None
    """[B] int64, a gold response to stay close to."""


class Labels(NamedTuple):
    """Single responses with a verdict."""

    seed: Tensor
    """[B] int64, ascending."""
    prompt: Tensor
    """[B] int64."""
    response: Tensor
    """[B] int64."""
    label: Tensor | None = None
    """[B] bool, True for desirable; None for scored data."""
    score: Tensor | None = None
    """[B] float64, for scored data."""
    weights: Tensor | None = None
    """[B], probability of each example; sums to 1 per seed."""
    facts: dict[str, Tensor] = NO_FACTS


class Lists(NamedTuple):
    """K responses to one prompt each, best first."""

    seed: Tensor
    """[B] int64, ascending."""
    prompt: Tensor
    """[B] int64."""
    responses: Tensor
    """[B, K] int64."""
    scores: Tensor
    """[B, K] float64, falling."""
    weights: None = None
    facts: dict[str, Tensor] = NO_FACTS


class Texts(NamedTuple):
    """Responses to imitate."""

    seed: Tensor
    """[B] int64, ascending."""
    prompt: Tensor
    """[B] int64."""
    response: Tensor
    """[B] int64."""
    weights: Tensor | None = None
    facts: dict[str, Tensor] = NO_FACTS


Data = Pairs | Labels | Lists | Texts


def take(data, rows):
    """The examples `rows` (a slice, an index or a mask) of `data`."""
    fields = {
        name: value[rows] if isinstance(value, Tensor) else value
        for name, value in data._asdict().items()
        if name != "facts"
    }
    return data._replace(**fields, facts={name: value[rows] for name, value in data.facts.items()})


def parts(data: Data, seeds: int) -> list[slice]:
    """Where the examples of each seed stand."""
    ends = torch.bincount(data.seed, minlength=seeds).cumsum(0).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def with_rewards(pairs: Pairs, reward: Tensor) -> Pairs:
    """The pairs with true scores and their difference among the facts.

    Args:
        pairs: pairs without.
        reward: [S, P, V].
    """
    chosen, rejected = reward[pairs.seed, pairs.prompt, pairs.chosen], reward[pairs.seed, pairs.prompt, pairs.rejected]
    facts = {"chosen_scores": chosen, "rejected_scores": rejected, "margin": chosen - rejected}
    return pairs._replace(facts={**pairs.facts, **facts})


def winners(pairs: Pairs) -> Texts:
    """The chosen responses, to imitate."""
    return Texts(pairs.seed, pairs.prompt, pairs.chosen, pairs.weights)


def split(pairs: Pairs) -> Labels:
    """Each pair as a desirable and an undesirable response, the two halves of each seed one after the other."""
    seed = torch.cat([pairs.seed, pairs.seed])
    order = seed.argsort(stable=True)
    label = torch.arange(len(seed)) < len(pairs.seed)
    response = torch.cat([pairs.chosen, pairs.rejected])
    weights = None if pairs.weights is None else torch.cat([pairs.weights, pairs.weights])[order] / 2
    return Labels(seed[order], pairs.prompt.repeat(2)[order], response[order], label[order], weights=weights)


def flip(pairs: Pairs, share: float, generators: list[torch.Generator]) -> Pairs:
    """The pairs with a share of labels flipped at random; fact `flipped` says which.

    Args:
        pairs: clean pairs.
        share: probability of a flip.
        generators: one per seed. The same draws serve every share, so that flips of 10 % are among those of 20 %.
    """
    draws = torch.cat(
        [
            torch.rand(where.stop - where.start, generator=generator)
            for where, generator in zip(parts(pairs, len(generators)), generators, strict=True)
        ]
    )
    flipped = draws < share
    return pairs._replace(
        chosen=torch.where(flipped, pairs.rejected, pairs.chosen),
        rejected=torch.where(flipped, pairs.chosen, pairs.rejected),
        facts={**pairs.facts, "flipped": flipped},
    )
