"""T1, the displacement toy: chosen and rejected share features, so that pushing one moves the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evidence.worlds.base import TableWorld, generators
from evidence.worlds.data import Pairs

PROMPTS, RESPONSES, FEATURES = 16, 20, 4
ALIKE = 0.95
CHOSEN, REJECTED = 0, 1


class Displacement(TableWorld):
    """Policy = base * exp(E W) with W per prompt; response 0 is chosen, 1 is rejected, 18 are in no pair.

    Args:
        seeds: number of seeds, from 0.
    """

    learning_rate = 0.3 * PROMPTS
    steps = 3000

    def __init__(self, seeds: int) -> None:
        self.seeds = seeds
        self.features = torch.stack([self._draw(generator) for generator in generators(seeds)])
        base = torch.full((RESPONSES,), 0.30 / (RESPONSES - 2), dtype=torch.float64)
        base[[CHOSEN, REJECTED]] = 0.35
        self.reference = base.log().expand(seeds, PROMPTS, RESPONSES)

    @staticmethod
    def _draw(generator: torch.Generator) -> Tensor:
        def unit(values: Tensor) -> Tensor:
            return values / values.norm(dim=-1, keepdim=True)

        features = unit(torch.randn(PROMPTS, RESPONSES, FEATURES, generator=generator, dtype=torch.float64))
        chosen = features[:, CHOSEN]
        aside = torch.randn(PROMPTS, FEATURES, generator=generator, dtype=torch.float64)
        aside = unit(aside - (aside * chosen).sum(-1, keepdim=True) * chosen)
        features[:, REJECTED] = ALIKE * chosen + math.sqrt(1 - ALIKE**2) * aside
        return features

    def start(self) -> Tensor:
        """Zeros [S, 16, 4]: the reference."""
        return torch.zeros(self.seeds, PROMPTS, FEATURES, dtype=torch.float64)

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, 16, 20]."""
        return (self.reference + torch.einsum("spvd,spd->spv", self.features, theta)).log_softmax(-1)

    def pairs(self, margin: float = 1.0) -> Pairs:
        """One pair per prompt.

        Args:
            margin: how much better the chosen response is said to be, for methods that ask.
        """
        seed, prompt = torch.cartesian_prod(torch.arange(self.seeds), torch.arange(PROMPTS)).T
        chosen, one = torch.zeros_like(prompt), torch.ones(len(prompt), dtype=torch.float64)
        facts = {
            "margin": margin * one,
            "chosen_scores": margin * one,
            "rejected_scores": 0 * one,
            "timestamp": 0 * one,
            "source_rows": prompt + 1,
        }
        return Pairs(seed, prompt, chosen, chosen + 1, facts)

    def shares(self, state: Tensor) -> dict[str, Tensor]:
        """Mean probabilities of chosen, rejected and all responses in no pair, each [S]."""
        probability = state.exp().mean(1)
        chosen, rejected = probability[:, CHOSEN], probability[:, REJECTED]
        return {"chosen": chosen, "rejected": rejected, "unseen": 1 - chosen - rejected}
