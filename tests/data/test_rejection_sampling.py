"""RSO's sampler: worked examples, its limits, and that it draws about as from the optimal policy."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from lit_align.data.rejection_sampling import rejection_sample

VECTORS = {
    "rso_sampler/v1": ([1.0, 0.2, -0.5, 0.8], 0.5, 2, [0.95, 0.3, 0.01, 0.5], [0, 2], 3),
    "rso_sampler/v2": (
        [0.1, 0.9, 0.4, 0.5, -1.0], 0.25, 3, [0.6, 0.2, 0.5, 0.1, 0.9, 0.99, 0.05, 0.4, 0.7], [1, 3, 2], 7,
    ),
    "rso_sampler/v3": ([0.0, 2.0, 1.9], 0.1, 2, [0.5, 0.99, 0.99, 0.5, 0.2], [1, 2], 5),
}  # fmt: skip
"""rewards, beta, num_samples, uniforms -> accepted indices in order, how many uniforms were used."""


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_worked_examples(vector):
    rewards, beta, num_samples, uniforms, accepted, consumed = vector
    draws = iter(uniforms)
    assert rejection_sample(rewards, beta, num_samples, draws) == accepted
    assert len(list(draws)) == len(uniforms) - consumed


def endless(seed=0):
    return iter(random.Random(seed).random, None)


def test_limits_of_beta():
    rewards = [0.3, 0.9, 0.1, 0.7]
    assert rejection_sample(rewards, 1e-9, 3, endless()) == [1, 3, 0]
    assert rejection_sample(rewards, 1e9, 3, endless()) == [0, 1, 2]


def test_fewer_candidates_than_samples():
    assert sorted(rejection_sample([0.0, 5.0, 1.0], 0.1, 8, endless())) == [0, 1, 2]
    assert rejection_sample([], 0.1, 8, endless()) == []


def test_accepted_responses_come_about_as_from_the_optimal_policy():
    """Ten responses of a policy, tilted by exp(reward / beta): nearer to the tilted policy than policy or best are."""
    rng = random.Random(0)
    policy = [rng.random() for _ in range(10)]
    rewards = [rng.gauss(0, 0.7) for _ in range(10)]
    policy = [p / sum(policy) for p in policy]
    tilted = [p * math.exp(r / 0.5) for p, r in zip(policy, rewards, strict=True)]
    tilted = [t / sum(tilted) for t in tilted]
    seen, best = Counter(), Counter()
    for _ in range(800):
        drawn = rng.choices(range(10), policy, k=64)
        scores = [rewards[index] for index in drawn]
        seen.update(drawn[place] for place in rejection_sample(scores, 0.5, 8, iter(rng.random, None)))
        best.update(sorted(drawn, key=lambda index: -rewards[index])[:8])

    def distance(counts):
        return sum(abs(counts[index] / counts.total() - t) for index, t in enumerate(tilted)) / 2

    assert distance(seen) < 0.05
    assert distance(best) > 0.1
    assert sum(abs(p - t) for p, t in zip(policy, tilted, strict=True)) / 2 > 0.1
