"""Lengths in pairs: the search of the specification and for other prompts, the audit and the balance."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lit_align.core.errors import ConfigError, DataError
from lit_align.functional.length import search_length_price
from lit_align.loops.lengths import audit_lengths, find_length_price, keep_balanced, length_difference
from lit_align.loops.pairs import Answer, Pairing

# The vector "dice alpha search".
REWARDS = [[3, 2, 1, 0.5], [1, 2.5, 2, 0], [0.2, 0.1, 0.9, 0.4]]
LENGTHS = [[10, 8, 4, 6], [5, 12, 9, 4], [7, 3, 11, 6]]


def group(rewards, lengths):
    rows = zip(rewards, lengths, strict=True)
    return [Answer(f"text {sample}", reward, tokens, True, sample) for sample, (reward, tokens) in enumerate(rows)]


def groups(rewards=REWARDS, lengths=LENGTHS):
    return [group(*rows) for rows in zip(rewards, lengths, strict=True)]


def at(every, price):
    """The difference in length at a price, by the pairing itself."""
    pairs = [pair for answers in every for pair in Pairing(length_price=price).pairs("p", answers)]
    return sum(map(length_difference, pairs)) / len(every)


def test_the_price_of_the_specification():
    found = find_length_price(groups())
    assert found.alpha == 0.2
    assert found.difference == pytest.approx(1 / 3)


def test_the_pairs_at_that_price():
    pairs = [Pairing(length_price=0.2).pairs("p", answers)[0] for answers in groups()]
    assert [pair.chosen.sample for pair in pairs] == [0, 2, 1]
    assert [pair.rejected.sample for pair in pairs] == [3, 3, 2]


@pytest.mark.parametrize("slope", [0.03, -0.002, 4.0, 250.0])
def test_a_price_that_is_in_the_scores_is_found(slope):
    """Also one below 0: scores that punish length."""
    rng = random.Random(1)
    every = []
    for _ in range(400):
        lengths = [rng.randint(5, 300) for _ in range(rng.randint(2, 9))]
        rewards = [abs(slope) * rng.gauss(0, 100) + slope * length for length in lengths]
        every.append(group(rewards, lengths))
    found = find_length_price(every)
    assert found.alpha == pytest.approx(slope, rel=0.3)
    assert abs(found.difference) < 2
    assert abs(at(every, 0.0)) > 20
    assert found.difference == pytest.approx(at(every, found.alpha), abs=1e-9)


def test_no_price_of_a_fine_grid_is_better():
    rng = random.Random(2)
    for _ in range(20):
        rewards = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(5)]
        lengths = [[rng.randint(1, 30) for _ in range(4)] for _ in range(5)]
        found = find_length_price(groups(rewards, lengths))
        grid = [place / 1000 for place in range(-1500, 1501, 3)]
        best = search_length_price(torch.tensor(rewards).double(), torch.tensor(lengths).double(), grid)
        assert abs(found.difference) <= abs(best.difference)


@pytest.mark.parametrize("turn", [1, -1])
def test_of_equally_good_prices_the_one_nearest_to_0(turn):
    """The first pair turns round at 1 / 3, as 3 tokens make up for a score of 1, and the second not before 9."""
    every = groups([[1.0, 0.0], [9.0, 0.0]], [[20 - 5 * turn, 20 - 8 * turn], [20 - 6 * turn, 20 - 7 * turn]])
    assert find_length_price(every) == pytest.approx((turn / 3, -turn), abs=1e-8)


def test_prompts_with_more_and_fewer_answers_count_alike():
    every = groups([[3, 2, 1, 0.5], [1, 2.5]], [[10, 8, 4, 6], [5, 12]])
    found = find_length_price([*every, []])
    assert found.difference == pytest.approx(at(every, found.alpha))


@pytest.mark.parametrize(
    ("rewards", "lengths"),
    [([[1.0, 2.0]], [[5, 5]]), ([[1.0, 1.0]], [[5, 9]]), ([[1.0]], [[5]]), ([[2.0, 1.0]], [[5, 5]])],
)
def test_where_length_does_not_matter_there_is_no_price(rewards, lengths):
    assert find_length_price(groups(rewards, lengths)).alpha == 0


def test_the_price_is_0_where_lengths_are_equal_already():
    assert find_length_price(groups([[2, 1], [2, 1]], [[5, 9], [9, 5]])) == (0.0, 0.0)


@pytest.mark.parametrize("every", [[], [[]]])
def test_nothing_to_search_with(every):
    with pytest.raises(DataError, match="no answers"):
        find_length_price(every)


def test_an_answer_without_a_score_is_refused():
    with pytest.raises(DataError, match="no score"):
        find_length_price([[Answer("a", None, 3, True), Answer("b", 1.0, 3, True)]])


class TestAudit:
    def test_the_figures(self):
        audit = audit_lengths([4, -2, 0, 6])
        assert (audit.pairs, audit.difference) == (4, 2.0)
        deviations = (2, -4, -2, 4)
        assert audit.error == pytest.approx(math.sqrt(sum(d * d for d in deviations) / 3 / 4))
        assert audit.longer_wins == pytest.approx(2 / 3)

    def test_what_is_not_known(self):
        assert audit_lengths([]) == (0, None, None, None)
        assert audit_lengths([0]) == (1, 0.0, None, None)


class TestBalance:
    def test_the_largest_go_first(self):
        assert keep_balanced([1, 30, -3, 12, 4, -2]) == [0, 2, 4, 5]

    def test_shorter_winners_go_as_well(self):
        assert keep_balanced([-1, -30, 3, -12, -4, 2]) == [0, 2, 4, 5]

    def test_balanced_pairs_stay(self):
        assert keep_balanced([3, -3, 0]) == [0, 1, 2]

    def test_the_mean_is_below_the_tolerance(self):
        rng = random.Random(0)
        differences = [rng.randint(-40, 90) for _ in range(500)]
        for tolerance in (0.5, 2.0, 10.0):
            kept = [differences[place] for place in keep_balanced(differences, tolerance)]
            assert abs(sum(kept) / len(kept)) < tolerance
            assert len(kept) > 200

    def test_pairs_that_all_point_one_way_may_all_go(self):
        assert keep_balanced([8, 9, 10]) == []
        assert keep_balanced([]) == []

    @pytest.mark.parametrize("tolerance", [0, -1, math.nan])
    def test_a_tolerance_out_of_range(self, tolerance):
        with pytest.raises(ConfigError):
            keep_balanced([1], tolerance)
