"""95 % intervals: Student's t over runs, the bootstrap over examples."""

from __future__ import annotations

import math
import random

import pytest

from lit_align.evaluation.intervals import Interval, over_examples, over_runs, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (11, 2.2010), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_quantiles_of_other_shares():
    assert t_quantile(1, 0.5) == pytest.approx(1.0)
    assert t_quantile(7, 0.99) == pytest.approx(3.4995, abs=1e-4)


def test_over_runs():
    found = over_runs([1.0, 2.0, 6.0])
    half = 4.302653 * math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3)
    assert found == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-5)
    assert found.half_width == pytest.approx(half, abs=1e-5)
    assert over_runs([0.25]) == (0.25, None, None)
    assert over_runs([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_over_examples_is_close_to_the_normal_interval():
    generator = random.Random(0)
    values = [generator.gauss(3, 2) for _ in range(400)]
    (mean, low, high), (share, least, most) = over_examples([values, [float(v > 3) for v in values]])
    assert mean == pytest.approx(sum(values) / 400)
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.12)
    assert low < mean < high
    assert most - least == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.12)
    assert 0 < least < share < most < 1


def test_over_examples_is_the_same_every_time_and_in_any_company():
    values = [1.0, 4.0, 2.0, 8.0]
    assert over_examples([values])[0] == over_examples([[0.0] * 4, values])[1]
    assert over_examples([[1.0] * 4]) == [(1.0, 1.0, 1.0)]


def test_overlaps():
    assert Interval(1, 0, 2).overlaps(Interval(3, 2, 4))
    assert not Interval(1, 0, 2).overlaps(Interval(3, 2.1, 4))
    assert Interval(1, 0, 9).overlaps(Interval(3, 2, 4))
    assert Interval(1).overlaps(Interval(9, 8, 10)), "nothing is known of the first"
