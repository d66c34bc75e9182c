"""Statistical rejection sampling (RSO, https://arxiv.org/abs/2309.06657): from scored candidates to better ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def rejection_sample(rewards: Sequence[float], beta: float, num_samples: int, uniforms: Iterable[float]) -> list[int]:
    """Accept candidates so that they come about as from `policy * exp(reward / beta)`, without replacement.

    In each pass over the candidates that are left, one of them is accepted with probability
    `exp((reward - best) / beta)`, where `best` is the best reward among those that are left when the pass begins: so
    every pass accepts one at least. For beta to 0 the best are accepted, for beta to infinity the first.

    Args:
        rewards: of the candidates, in the order in which the policy drew them.
        beta: temperature above 0, in units of the rewards.
        num_samples: most candidates to accept.
        uniforms: numbers in [0, 1), one for each candidate that is looked at.

    Returns:
        Indices of the accepted candidates, in the order of acceptance: `num_samples`, or all where there are fewer.
    """
    draws = iter(uniforms)
    remaining = list(range(len(rewards)))
    accepted: list[int] = []
    while remaining and len(accepted) < num_samples:
        best = max(rewards[index] for index in remaining)
        for index in tuple(remaining):
            if len(accepted) == num_samples:
                break
            if next(draws) < math.exp((rewards[index] - best) / beta):
                accepted.append(index)
                remaining.remove(index)
    return accepted
