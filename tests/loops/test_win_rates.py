"""Win rates among the answers to one prompt: the numbers of the specification, and verdicts in both orders."""

from __future__ import annotations

import math

import pytest

from lit_align.core.errors import DataError
from lit_align.judges.base import Verdict
from lit_align.loops.win_rates import orders, verdict_table, win_rates, win_rates_of_verdicts

SCORES = [1, 0, -0.5, 2, 0.25]
RATES = [0.5993506351, 0.3896854347, 0.2913291347, 0.7775900557, 0.4420447398]


def test_the_rates_of_the_specification():
    assert win_rates(SCORES) == pytest.approx(RATES, abs=1e-9)


def test_rates_are_one_half_on_average():
    assert sum(win_rates(SCORES)) / len(SCORES) == pytest.approx(0.5)
    assert win_rates([3.0]) == [0.5]
    assert win_rates([]) == []


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers(score):
    with pytest.raises(DataError, match="finite"):
        win_rates([1.0, score])


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_verdicts_give_the_same_as_scores():
    asked = [Verdict(sigmoid(SCORES[first] - SCORES[second])) for first, second in orders(5)]
    assert win_rates_of_verdicts(verdict_table(5, asked)) == pytest.approx(RATES, abs=1e-9)


def test_a_liking_for_the_first_place_cancels_out():
    asked = [Verdict(sigmoid(SCORES[first] - SCORES[second]) + 0.04) for first, second in orders(5)]
    assert win_rates_of_verdicts(verdict_table(5, asked)) == pytest.approx(RATES, abs=1e-9)


def test_verdicts_by_hand():
    table = [[None, 0.9, 1.0], [0.3, None, None], [None, None, None]]
    # 0 beats 1: (0.9 + 0.7) / 2; 0 beats 2 by the one order that there is; 1 and 2 were never compared.
    assert win_rates_of_verdicts(table) == pytest.approx([(0.5 + 0.8 + 1) / 3, (0.5 + 0.2) / 2, (0.5 + 0) / 2])


def test_an_answer_that_was_never_judged_has_no_rate():
    assert win_rates_of_verdicts([[None, 1.0, None], [None, None, None], [None, None, None]]) == [0.75, 0.25, None]
    assert win_rates_of_verdicts([]) == []


@pytest.mark.parametrize(
    ("table", "match"),
    [([[None, 1.2], [0.5, None]], "no probability"), ([[None, 0.5]], "not square"), ([[math.nan]], "no probability")],
)
def test_tables_that_are_none(table, match):
    with pytest.raises(DataError, match=match):
        win_rates_of_verdicts(table)


def test_a_verdict_is_missing():
    with pytest.raises(ValueError, match="shorter"):
        verdict_table(3, [Verdict(0.5)])
