"""Logistic regression on probabilities, with few features and an L1 penalty, or many and a ridge."""

from __future__ import annotations

import numpy as np

from lit_align.evaluation.intervals import Floats

STRENGTHS = np.logspace(-4, 4, 10)
"""What cross-validation chooses from: the weight of the data against the penalty."""
FOLDS = 5
_STEPS = 100
_SMALL = 1e-9


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    result: Floats = np.exp(-np.logaddexp(0, -values))
    return result


def log_loss(features: Floats, targets: Floats, weights: Floats, coefficients: Floats) -> float:
    """Weighted sum of -[y ln p + (1 - y) ln (1 - p)], nats.

    Args:
        features: [N, D].
        targets: [N] probabilities.
        weights: [N].
        coefficients: [D].
    """
    logits = features @ coefficients
    return float((weights * (np.logaddexp(0, logits) - targets * logits)).sum())


def fit_l1(features: Floats, targets: Floats, weights: Floats, strength: float, start: Floats | None = None) -> Floats:
    """Coefficients [D] with the least strength * log_loss + sum |coefficients|, without an intercept.

    Newton's method, where each step solves a penalised quadratic problem by coordinate descent.

    Args:
        features: [N, D], few of them.
        targets: [N] probabilities.
        weights: [N].
        strength: of the data against the penalty.
        start: where to begin.
    """
    beta = np.zeros(features.shape[1]) if start is None else start.copy()

    def objective(candidate: Floats) -> float:
        return strength * log_loss(features, targets, weights, candidate) + float(np.abs(candidate).sum())

    value = objective(beta)
    for _ in range(_STEPS):
        chance = sigmoid(features @ beta)
        gradient = strength * features.T @ (weights * (chance - targets))
        curvature = strength * (features * (weights * chance * (1 - chance))[:, None]).T @ features
        curvature += _SMALL * np.eye(len(beta))
        direction = _soft_newton(beta, gradient, curvature) - beta
        slope = float(gradient @ direction) + float(np.abs(beta + direction).sum() - np.abs(beta).sum())
        size = 1.0
        while size > _SMALL and objective(beta + size * direction) > value + 1e-4 * size * slope:
            size /= 2
        if size <= _SMALL:
            break
        beta = beta + size * direction
        before, value = value, objective(beta)
        if before - value <= 1e-12 * max(1.0, abs(value)):
            break
    return beta


def _soft_newton(beta: Floats, gradient: Floats, curvature: Floats) -> Floats:
    """Minimum of the quadratic model around `beta` plus the sum of absolute values."""
    result = beta.copy()
    for _ in range(_STEPS):
        largest = 0.0
        for index in range(len(beta)):
            slope = gradient[index] + curvature[index] @ (result - beta)
            wanted = curvature[index, index] * result[index] - slope
            value = np.sign(wanted) * max(0.0, abs(wanted) - 1) / curvature[index, index]
            largest = max(largest, abs(value - result[index]))
            result[index] = value
        exact = _solved(beta, gradient, curvature, result)
        if exact is not None:
            return exact
        if largest < 1e-10:
            break
    return result


def _solved(beta: Floats, gradient: Floats, curvature: Floats, near: Floats) -> Floats | None:
    """The minimum that `_soft_newton` looks for, if its zeros and signs are those of a point near it.

    Descent by coordinates is slow where features are nearly collinear; linear equations are not.
    """
    active = np.flatnonzero(near)
    result = np.zeros(len(beta))
    if len(active):
        signs = np.sign(near[active])
        right = (curvature @ beta - gradient)[active] - signs
        result[active] = np.linalg.solve(curvature[np.ix_(active, active)], right)
        if (np.sign(result[active]) != signs).any():
            return None
    slopes = gradient + curvature @ (result - beta)
    return result if (np.abs(np.delete(slopes, active)) <= 1 + _SMALL).all() else None


def cross_validated(features: Floats, targets: Floats, weights: Floats) -> float:
    """The strength under which held-out rows have the least log loss; of equals the smallest one."""
    fold = np.arange(len(targets)) % FOLDS
    losses = np.zeros((FOLDS, len(STRENGTHS)))
    for number in range(FOLDS):
        inside, outside = fold != number, fold == number
        beta: Floats | None = None
        for place, strength in enumerate(STRENGTHS):
            beta = fit_l1(features[inside], targets[inside], weights[inside], strength, beta)
            loss = log_loss(features[outside], targets[outside], weights[outside], beta)
            losses[number, place] = loss / outside.sum()
    return float(STRENGTHS[losses.mean(0).argmin()])


def fit_ridge(features: Floats, targets: Floats, penalty: Floats) -> Floats:
    """Coefficients [D] with the least log_loss + sum penalty * coefficients^2 / 2, by Newton's method.

    Args:
        features: [N, D].
        targets: [N] probabilities.
        penalty: [D], positive.
    """
    beta = np.zeros(features.shape[1])
    ones = np.ones(len(targets))

    def objective(candidate: Floats) -> float:
        return log_loss(features, targets, ones, candidate) + float((penalty * candidate**2).sum()) / 2

    value = objective(beta)
    for _ in range(_STEPS):
        chance = sigmoid(features @ beta)
        gradient = features.T @ (chance - targets) + penalty * beta
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > _SMALL and objective(beta - size * step) > value:
            size /= 2
        beta = beta - size * step
        before, value = value, objective(beta)
        if before - value <= 1e-10 * max(1.0, abs(value)):
            break
    return beta
