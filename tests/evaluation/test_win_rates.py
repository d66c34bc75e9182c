"""Win rates: ties half, what nobody could judge nowhere."""

from __future__ import annotations

import pytest

from lit_align.core.errors import DataError
from lit_align.evaluation.win_rates import preferences, win_rate


def test_the_example_of_the_specification():
    won = preferences([1.0, 0.5, -0.2, 2.0, 0.0], [0.8, 0.9, -1.0, 2.0, 0.4])
    assert won == [1, 0, 1, 0.5, 0]
    found = win_rate(won)
    assert (found.wins / 5, found.ties / 5, found.losses / 5) == (0.4, 0.2, 0.4)
    assert found.rate.mean == 0.5
    assert 0 <= found.rate.low < 0.5 < found.rate.high <= 1


def test_probabilities_and_prompts_without_a_verdict():
    found = win_rate([0.9, None, 0.3, 0.5])
    assert found.rate.mean == pytest.approx((0.9 + 0.3 + 0.5) / 3)
    assert (found.wins, found.ties, found.losses, found.not_judged, found.judged) == (1, 1, 1, 1, 3)
    assert preferences([1.0, None], [None, 2.0]) == [None, None]


def test_intervals_shrink_with_prompts():
    few, many = win_rate([1, 0] * 20), win_rate([1, 0] * 500)
    assert many.rate.half_width == pytest.approx(1.96 * 0.5 / 1000**0.5, rel=0.1)
    assert few.rate.half_width > 4 * many.rate.half_width
    assert win_rate([1, 0] * 20) == few


def test_bad_verdicts():
    with pytest.raises(DataError, match="no prompt has a verdict"):
        win_rate([None, None])
    with pytest.raises(DataError, match="no probability"):
        win_rate([0.5, 1.5])
    with pytest.raises(DataError, match="no probability"):
        win_rate([float("nan")])
