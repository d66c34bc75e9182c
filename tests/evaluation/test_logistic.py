"""The penalised fits, against an independent solver and against their own conditions."""

from __future__ import annotations

import numpy as np
import pytest

from lit_align.evaluation.logistic import cross_validated, fit_l1, fit_ridge, log_loss, sigmoid


def problem():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    targets = sigmoid(features @ np.array([1.0, -2.0, 0.0]) + generator.normal(size=60))
    return features, targets, generator.uniform(0.5, 2, 60)


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.05, [0.0, 0.0, 0.0]),
        (1.0, [0.729773738522, -1.375664406655, 0.175798975541]),
        (1e4, [0.852249408190, -1.594629456899, 0.267589538412]),
    ],
)
def test_coefficients_are_those_of_liblinear(strength, expected):
    """Expected: scikit-learn 1.9.1, LogisticRegression(penalty="l1", solver="liblinear", C=strength, tol=1e-12)."""
    assert fit_l1(*problem(), strength) == pytest.approx(expected, abs=1e-8)
    assert fit_l1(*problem(), strength, np.array([5.0, 5.0, -5.0])) == pytest.approx(expected, abs=1e-7)


def test_the_ridge_is_where_its_gradient_vanishes():
    features, targets, _ = problem()
    penalty = np.array([0.1, 1.0, 10.0])
    beta = fit_ridge(features, targets, penalty)
    gradient = features.T @ (sigmoid(features @ beta) - targets) + penalty * beta
    assert np.abs(gradient).max() < 1e-5


def test_cross_validation_drops_what_does_not_help():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(200, 2))
    ones = np.ones(200)
    noise = (generator.uniform(size=200) < 0.5).astype(float)
    signal = sigmoid(3 * features[:, 0])
    assert np.abs(fit_l1(features, noise, ones, cross_validated(features, noise, ones))).max() < 0.2
    assert fit_l1(features, signal, ones, cross_validated(features, signal, ones))[0] == pytest.approx(3, rel=0.05)


def test_log_loss():
    value = log_loss(np.array([[1.0]]), np.array([0.25]), np.array([2.0]), np.array([np.log(3)]))
    assert value == pytest.approx(-2 * (0.25 * np.log(0.75) + 0.75 * np.log(0.25)))
