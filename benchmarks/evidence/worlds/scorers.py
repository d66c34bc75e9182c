"""Models that score answers: one network per seed, and all of them called at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lit_align.core.forward import normalised_rows


class Scorers:
    """One network per seed, which differ in their first weights.

    Args:
        build: makes a network; its random numbers come from the seed.
        seeds: number of seeds, from 0.
    """

    def __init__(self, build: Callable[[], nn.Module], seeds: int) -> None:
        networks = []
        for seed in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                networks.append(build().double())
        self.network = networks[0]
        parameters, _ = stack_module_state(networks)
        self.shapes = {name: weight.shape[1:] for name, weight in parameters.items()}
        self.first = torch.cat([weight.detach().flatten(1) for weight in parameters.values()], 1)

    def start(self) -> Tensor:
        """First weights, [S, P]."""
        return self.first.clone()

    def weights(self, theta: Tensor) -> dict[str, Tensor]:
        """One seed's weights [P] by name."""
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def __call__(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """What the networks say.

        Args:
            theta: [S, P], with gradient.
            inputs: [S, ...], each seed's own.

        Returns:
            [S, ...], with gradient.
        """

        def one(flat: Tensor, own: Tensor) -> Tensor:
            return functional_call(self.network, self.weights(flat), (own,))

        return vmap(one)(theta, inputs)


class Head(nn.Linear):
    """A head of a few numbers without bias, initialised like the product's; of one number [...], of several [..., K].

    Args:
        size: of what it reads.
        outputs: how many numbers.
    """

    def __init__(self, size: int, outputs: int = 1) -> None:
        super().__init__(size, outputs, bias=False)
        nn.init.normal_(self.weight, std=1 / math.sqrt(size + 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Numbers of vectors [..., size]."""
        values = super().forward(hidden)
        return values[..., 0] if values.shape[-1] == 1 else values


def mlp(inputs: int, hidden: int = 32, outputs: int = 1) -> nn.Module:
    """One hidden layer of tanh, and a head."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), Head(hidden, outputs))


class Transformer(nn.Module):
    """A causal transformer of one attention head, with a score at every token.

    Args:
        vocabulary: number of tokens.
        places: longest text.
        width: of hidden states.
        layers: how many.
    """

    def __init__(self, vocabulary: int, places: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        self.attention = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(layers))
        self.between = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.head = Head(width)

    def forward(self, texts: Tensor) -> Tensor:
        """Scores [..., T] of the tokens of texts [..., T]."""
        length = texts.shape[-1]
        hidden = self.tokens(texts) + self.places.weight[:length]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        for number, (attention, between) in enumerate(zip(self.attention, self.between, strict=True)):
            query, key, value = attention(self.norms[number](hidden)).chunk(3, -1)
            reach = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).masked_fill(later, -torch.inf)
            hidden = hidden + reach.softmax(-1) @ value
            hidden = hidden + between(hidden)
        return self.head(self.norms[-1](hidden))


class TwoHeads(nn.Module):
    """A linear trunk and two heads, centred and of length 1.

    Args:
        size: of features.
        hidden: of the trunk.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(size, hidden, bias=False), Head(hidden, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Quality, length, and how far the heads point the same way, [..., 3], of features [..., d]."""
        heads = normalised_rows(self.head.weight)
        outputs = self.trunk(features) @ heads.T
        overlap = (heads[0] @ heads[1]).abs()
        return torch.cat([outputs, overlap.expand(*outputs.shape[:-1], 1)], -1)
