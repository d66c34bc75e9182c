"""W4, tabular bandits: free logits per response, exact expectations over weighted pairs, no sampling noise."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.worlds.base import TableWorld, generators
from evidence.worlds.data import Labels, Pairs, Texts, with_rewards


class Tabular(TableWorld):
    """One logit per response.

    Args:
        reference: [S, P, V] log-probabilities of the reference.
        reward: [S, P, V].
        lengths: [S, P, V] numbers of tokens; 1 where None.
    """

    def __init__(self, reference: Tensor, reward: Tensor, lengths: Tensor | None = None) -> None:
        self.seeds = len(reference)
        self.reference, self.reward, self.tokens = reference, reward, lengths

    @classmethod
    def random(cls, seeds: int, responses: int = 8) -> Tabular:
        """One prompt; logits of the reference and rewards are standard normal."""
        drawn = [torch.randn(2, 1, responses, generator=g, dtype=torch.float64) for g in generators(seeds)]
        reference, reward = torch.stack(drawn, 1)
        return cls(reference.log_softmax(-1), reward)

    def start(self) -> Tensor:
        """The reference's logits."""
        return self.reference.clone()

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, P, V]."""
        return theta.log_softmax(-1)

    def lengths(self, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Numbers of tokens [B]."""
        return super().lengths(seed, prompt, response) if self.tokens is None else self.tokens[seed, prompt, response]

    def optimum(self, beta: float) -> Tensor:
        """Log-probabilities [S, P, V] of reference * exp(reward / beta), renormalised."""
        return (self.reference + self.reward / beta).log_softmax(-1)

    def all_pairs(self, flips: float = 0.0) -> Pairs:
        """Every ordered pair, weighted with the probability that it is drawn uniformly and so labelled.

        Args:
            flips: probability that a label is turned round.
        """
        seeds, prompts, responses = self.reference.shape
        index = torch.cartesian_prod(*(torch.arange(n) for n in (seeds, prompts, responses, responses)))
        seed, prompt, chosen, rejected = index[index[:, 2] != index[:, 3]].T
        wins = (self.reward[seed, prompt, chosen] - self.reward[seed, prompt, rejected]).sigmoid()
        wins = (1 - flips) * wins + flips * (1 - wins)
        weights = wins / (prompts * responses * (responses - 1) / 2)
        return with_rewards(Pairs(seed, prompt, chosen, rejected, weights=weights), self.reward)


def one_prompt(reference: list[float]) -> Tensor:
    """Log-probabilities [1, 1, V] of one seed and one prompt."""
    return torch.tensor(reference, dtype=torch.float64).log()[None, None]


def single(chosen: int, rejected: int) -> Pairs:
    """One pair of one seed and one prompt."""
    zero = torch.zeros(1, dtype=torch.long)
    return Pairs(zero, zero, zero + chosen, zero + rejected)


def exact_winners(world: Tabular, pairs: Pairs) -> Texts:
    """Each response with the probability that it wins."""
    seeds, prompts, responses = world.reference.shape
    index = torch.cartesian_prod(*(torch.arange(n) for n in (seeds, prompts, responses)))
    assert pairs.weights is not None
    weights = torch.zeros(seeds, prompts, responses, dtype=torch.float64)
    weights.index_put_((pairs.seed, pairs.prompt, pairs.chosen), pairs.weights, accumulate=True)
    seed, prompt, response = index.T
    return Texts(seed, prompt, response, weights.flatten())


def exact_labels(world: Tabular, wanted: Tensor) -> Labels:
    """Each response as desirable and as undesirable, weighted with the probability of either.

    Args:
        world: uniform over its responses.
        wanted: [S, P, V] probability that a response is called desirable.
    """
    seeds, prompts, responses = world.reference.shape
    index = torch.cartesian_prod(*(torch.arange(n) for n in (seeds, prompts, responses, 2)))
    seed, prompt, response, label = index.T
    probability = wanted[seed, prompt, response]
    weights = torch.where(label == 1, probability, 1 - probability) / (prompts * responses)
    return Labels(seed, prompt, response, label == 1, weights=weights)
