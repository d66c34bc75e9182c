"""The product's losses of reward models on a world's scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evidence.product import Method
from lit_align.core.batch import Counts
from lit_align.core.kinds import RatedRewardModule, as_terms
from lit_align.core.outputs import reduce_terms


class RewardLoss:
    """The loss of a method on each seed's scores, by a module for each.

    Args:
        method: method and settings.
        seeds: number of seeds.
    """

    def __init__(self, method: Method, seeds: int) -> None:
        self.modules = [method.build() for _ in range(seeds)]

    def __call__(self, *inputs: Tensor, **facts: Tensor) -> Tensor:
        """Losses [S], with gradient.

        Args:
            *inputs: what the method's `losses` takes, [S, B, ...] each.
            **facts: what its `reads` names, [S, ...] each.
        """
        return torch.stack(
            [
                self.of_seed(seed, *(part[seed] for part in inputs), **{name: x[seed] for name, x in facts.items()})
                for seed in range(len(self.modules))
            ]
        )

    def of_seed(self, seed: int, *inputs: Tensor, **facts: Tensor) -> Tensor:
        """One seed's loss, scalar; inputs [B, ...]."""
        module = self.modules[seed]
        if isinstance(module, RatedRewardModule):
            terms, tokens = module.rating_terms(*inputs, **facts), (~inputs[1].isnan()).sum()
        else:
            # Tokens and steps come as one flat batch here, whose sum the core would divide by their number.
            terms, tokens = as_terms(module.losses(*inputs, **facts)), len(inputs[0])
        return reduce_terms(terms, Counts(len(inputs[0]), tokens))


class Epochs:
    """An objective on one minibatch after the other, each seed's examples in an order of its own.

    Args:
        objective: parameters and indices [S, b] of examples to losses [S].
        seeds: number of seeds.
        number: examples per seed.
        size: of a minibatch; a remainder is left to the next epoch.
    """

    def __init__(self, objective: Callable[[Tensor, Tensor], Tensor], seeds: int, number: int, size: int) -> None:
        self.objective, self.number, self.size = objective, number, size
        self.generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
        self.waiting: list[Tensor] = []

    def __call__(self, theta: Tensor) -> Tensor:
        """Losses [S] of the next minibatch."""
        if not self.waiting:
            order = torch.stack([torch.randperm(self.number, generator=g) for g in self.generators])
            whole = self.number // self.size * self.size
            self.waiting = list(order[:, :whole].split(self.size, 1))
        return self.objective(theta, self.waiting.pop(0))


def rows(values: Tensor, index: Tensor) -> Tensor:
    """The examples `index` [S, b] of each seed's `values` [S, N, ...]."""
    return values[torch.arange(len(values))[:, None], index]
