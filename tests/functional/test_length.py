"""Rewards without the length of responses in them, against numbers worked out elsewhere."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.length import length_normalised, length_penalised, search_length_price

REWARDS = torch.tensor([2.0, -1.0, 1.5], dtype=torch.float64)
LENGTHS = torch.tensor([10.0, 50.0, 25.0], dtype=torch.float64)


def test_rewards_per_token():
    expected = [0.133333333333, -0.0181818181818, 0.05]
    assert length_normalised(REWARDS, LENGTHS, 5.0).tolist() == pytest.approx(expected, abs=1e-9)


def test_a_floor_keeps_length_from_paying():
    rewards, lengths = torch.tensor([-1.0, -1.0]), torch.tensor([10.0, 50.0])
    raised = length_normalised(rewards, lengths, 5.0)
    assert raised[1] > raised[0], "what the floor is for"
    floored = length_normalised(rewards, lengths, 5.0, floor=-2.0)
    assert floored[0] > floored[1] > 0


@pytest.mark.parametrize(
    ("side", "expected"), [("both", [1.9, -1.3, 1.45]), ("over", [2.0, -1.3, 1.45]), ("under", [1.9, -1.0, 1.5])]
)
def test_a_price_of_lengths_off_the_mark(side, expected):
    penalised = length_penalised(REWARDS, LENGTHS, weight=0.01, target=20, side=side)
    assert penalised.tolist() == pytest.approx(expected, abs=1e-9)


class TestSearch:
    rewards = torch.tensor([[3, 2, 1, 0.5], [1, 2.5, 2, 0], [0.2, 0.1, 0.9, 0.4]], dtype=torch.float64)
    lengths = torch.tensor([[10, 8, 4, 6], [5, 12, 9, 4], [7, 3, 11, 6]])

    def test_the_price_that_makes_ends_equally_long(self):
        found = search_length_price(self.rewards, self.lengths, [0, 0.1, 0.2, 0.3, 0.4, 0.5])
        assert found.alpha == 0.2
        assert found.difference == pytest.approx(1 / 3)

    @pytest.mark.parametrize(("alpha", "difference"), [(0.0, 20 / 3), (0.1, 8 / 3), (0.3, -1.0), (0.4, -17 / 3)])
    def test_the_difference_at_other_prices(self, alpha, difference):
        assert search_length_price(self.rewards, self.lengths, [alpha]).difference == pytest.approx(difference)

    def test_of_equally_good_prices_the_smaller(self):
        assert search_length_price(self.rewards, self.lengths, [0.5, 0.4]).alpha == 0.4
