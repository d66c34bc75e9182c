"""Calibration: the example of the specification, and a temperature that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lit_align.evaluation.calibration import calibration, fitted_temperature, halves
from tests.evaluation.test_reward_metrics import CHOSEN, REJECTED


def test_the_example_of_the_specification():
    found = calibration(np.array(CHOSEN), np.array(REJECTED))
    assert found.ece == pytest.approx(0.352346740633, abs=1e-9)
    assert found.brier == pytest.approx(0.177527152719, abs=1e-9)
    assert found.nll == pytest.approx(0.499658945044, abs=1e-9)
    assert [part.confidence for part in found.bins] == pytest.approx(
        [0.5, 0.622459331202, 0.73105857863, 0.982013790038]
    )
    assert [part.accuracy for part in found.bins] == [0, 0, 1, 1]


def test_a_certain_model_fills_the_last_bin():
    found = calibration(np.array([800.0, 0.0]), np.array([-800.0, 900.0]))
    assert [part.pairs for part in found.bins] == [2]
    assert found.ece == pytest.approx(0.5)
    assert found.nll == pytest.approx(450)


def test_the_temperature_is_the_one_that_was_put_in():
    """Three of four pairs right at a distance of 2: the best temperature makes sigmoid(2 / t) three quarters."""
    chosen, rejected = np.array([2.0, 2, 2, 0]), np.array([0.0, 0, 0, 2])
    assert fitted_temperature(chosen, rejected) == pytest.approx(2 / math.log(3), rel=1e-6)
    assert fitted_temperature(1000 * chosen, 1000 * rejected) == pytest.approx(2000 / math.log(3), rel=1e-6)


def test_a_fitted_temperature_has_the_least_loss():
    generator = np.random.default_rng(0)
    margin = generator.normal(1, 2, 400)
    right = generator.uniform(size=400) < 1 / (1 + np.exp(-margin))
    chosen, rejected = 5 * np.where(right, np.abs(margin), -np.abs(margin)), np.zeros(400)
    temperature = fitted_temperature(chosen, rejected)
    best = calibration(chosen, rejected, temperature).nll
    assert all(calibration(chosen, rejected, temperature * factor).nll > best for factor in (0.9, 1.1))
    assert calibration(chosen, rejected, temperature).ece < calibration(chosen, rejected).ece


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [([1.0, 2.0], [0.0, 0.0]), ([0.0, 1.0], [1.0, 0.0]), ([0.0], [5.0]), ([1.0], [1.0])],
    ids=["never wrong", "chance", "always wrong", "equal"],
)
def test_no_temperature_is_best(chosen, rejected):
    assert fitted_temperature(np.array(chosen), np.array(rejected)) is None


def test_halves():
    first, second = halves(range(7), seed=3)
    assert (first ^ second).all()
    assert first.sum() == 3
    assert (halves(range(7), seed=3)[0] == first).all()
    assert any((halves(range(7), seed=s)[0] != first).any() for s in range(3))
    rows, _ = halves([number // 5 for number in range(50)])
    assert rows.sum() == 25
    assert {rows[start : start + 5].sum() for start in range(0, 50, 5)} == {0, 5}
