"""Rewards of single tokens, and other ways to share a response's reward among them."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.logprobs import segment_sums
from lit_align.functional.token_rewards import shaped_rewards, token_rewards
from tests.cases.row import t

POLICY = t(-0.5, -1.0, -0.25, -2.0, -0.75, -1.5, -0.5, -3.0)
REFERENCE = t(-0.6, -1.1, -0.3, -1.8, -0.8, -1.4, -0.7, -2.6)
RESPONSE = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("beta", "tokens", "sums"),
    [
        (0.5, [0.05, 0.05, 0.025, -0.1, 0.025, -0.05, 0.1, -0.2], [0.05, -0.15]),
        (0.1, [0.01, 0.01, 0.005, -0.02, 0.005, -0.01, 0.02, -0.04], [0.01, -0.03]),
    ],
)
def test_they_add_up_to_the_rewards_of_responses(beta, tokens, sums):
    rewards = token_rewards(POLICY, REFERENCE, beta)
    assert rewards.tolist() == pytest.approx(tokens, abs=1e-12)
    assert segment_sums(rewards, RESPONSE, 2).tolist() == pytest.approx(sums, abs=1e-12)


def test_shaping_changes_tokens_and_no_response():
    rewards = token_rewards(POLICY, REFERENCE, 0.5)
    potentials = t(1.0, 3.0, -2.0, 0.5, 99.0, 4.0, 0.0, 99.0)
    shaped = shaped_rewards(rewards, potentials, torch.tensor([5, 3]))
    rises = [1, 2, -5, 2.5, -0.5, 4, -4, 0]
    assert (shaped - rewards).tolist() == pytest.approx(rises, abs=1e-12)
    for number in range(2):
        one = number == RESPONSE
        assert shaped[one].sum().item() == pytest.approx(rewards[one].sum().item(), abs=1e-12)


def test_a_response_is_shaped_by_its_own_potentials_only():
    rewards, potentials = torch.zeros(4, dtype=torch.float64), t(5.0, 7.0, 1.0, 2.0)
    both = shaped_rewards(rewards, potentials, torch.tensor([2, 2]))
    alone = shaped_rewards(rewards[2:], potentials[2:], torch.tensor([2]))
    assert both[2:].tolist() == alone.tolist() == [1, -1]
