"""Length-controlled win rate, as in AlpacaEval 2.

Y. Dubois, B. Galambosi, P. Liang, T. Hashimoto, "Length-Controlled AlpacaEval: A Simple Way to Debias Automatic
Evaluators", 2024, https://arxiv.org/abs/2404.04475; the authors' code is https://github.com/tatsu-lab/alpaca_eval,
src/alpaca_eval/metrics/glm_winrate.py. For a model m against a fixed baseline b on instruction x,

    P(m wins) = sigmoid(theta + phi * tanh((len_m - len_b) / sd) + psi * gamma_x)

where sd is the sample standard deviation of the length differences in characters, which are not centred, and gamma_x is
how difficult the instruction is. The length-controlled win rate is the mean prediction with the length term set to 0.
theta, phi and psi are fitted for each model, with an L1 penalty whose strength is chosen by 5-fold cross-validation of
the log-likelihood among 10 values from 1e-4 to 1e4; verdicts may be probabilities.

gamma is fitted once, jointly over all models (in the authors' notebook: the same model with a theta and a phi for each
model, and a gamma for each instruction that all share). The authors publish theirs for their 805 instructions; here it
is fitted on the models at hand where there are several, and left out where there is one ("length_controlled_minimal"
in the authors' code). They also add answers of the baseline itself, prompted to be terse and to be verbose, with a
weight of 0.2 in all and theta = 0 ("gamed"): `Gamed` takes such data where there are some; without them this is the
authors' "length_controlled_noreg".

Differs: the penalised fit is solved to convergence, where the authors' solver (liblinear) stops at a tolerance of 1e-4;
rows go to the folds in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lit_align.core.errors import DataError
from lit_align.evaluation.intervals import Floats, Interval, bootstrap_weights, percentiles
from lit_align.evaluation.logistic import cross_validated, fit_l1, fit_ridge, sigmoid

GAMED_WEIGHT = 0.2
_LEAST_SHARE = 0.1
"""Of either sign among the length differences, for theta and phi to be told apart."""
_RESAMPLES = 500
_RIDGE = 0.01
"""Of the joint fit, where some instructions are won, or lost, by all models."""


class Gamed(NamedTuple):
    """Verdicts on answers of the baseline model that was asked to be terse or verbose, against its ordinary ones."""

    preferences: Floats
    """[G] probability that the gamed answer wins."""
    lengths: Floats
    """[G] characters of the ordinary answer less those of the gamed one, divided by their sample standard deviation
    within each of the two ways."""
    difficulty: Floats
    """[G] of the instruction."""


class LengthControlled(NamedTuple):
    """What is left of a win rate where both answers are as long."""

    rate: Interval
    """Share of 1; the interval is from a bootstrap over prompts, with the strength of the penalty as it was chosen."""
    model: float
    """theta: log-odds to win at equal length on an instruction of difficulty 0."""
    length: float
    """phi: of tanh of the standardised difference, positive where longer answers win."""
    difficulty: float | None
    """psi; None where the instructions' difficulty is not known."""
    reliable: bool
    """Whether answers are sometimes longer and sometimes shorter, since otherwise the model's quality and the effect of
    length are hardly told apart; and whether the penalty has left a theta: with few prompts it takes all away, which
    makes the rate one half whatever happened."""
    prompts: int


def length_controlled(
    preferences: Sequence[float] | Floats,
    ours: Sequence[float] | Floats,
    theirs: Sequence[float] | Floats,
    difficulty: Sequence[float] | Floats | None = None,
    gamed: Gamed | None = None,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> LengthControlled:
    """The length-controlled win rate of a model against a baseline.

    Args:
        preferences: per prompt the probability that the model wins, or 1, 0.5 and 0.
        ours: length of the model's answers, characters.
        theirs: length of the baseline's.
        difficulty: of the instructions, see `instruction_difficulty`.
        gamed: answers of the baseline that hold the fit.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        DataError: there are fewer than ten prompts.
    """
    won = np.asarray(preferences, dtype=np.float64)
    if len(won) < 10:
        fix = "judge at least ten prompts, better some hundreds"
        raise DataError("too few prompts for a length-controlled win rate", value=f"{len(won)} prompts", fix=fix)
    # The authors subtract the model's length from the baseline's; the sign only turns phi.
    lengths = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    hard = None if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    features = _features(standardised(lengths), np.ones(len(won)), hard)
    targets, weights = won, np.ones(len(won))
    if gamed is not None:
        extra = _features(-gamed.lengths, np.zeros(len(gamed.lengths)), None if hard is None else gamed.difficulty)
        targets = np.concatenate([gamed.preferences, won])
        weights = np.concatenate([np.full(len(extra), GAMED_WEIGHT / 2), weights])
        features = np.concatenate([extra, features])
    strength = cross_validated(features, targets, weights)
    coefficients = fit_l1(features, targets, weights, strength)
    rate = _at_equal_length(coefficients, hard, len(won))
    first = len(targets) - len(won)
    resampled = [
        _refitted(features, targets, weights, strength, first, drawn, hard, coefficients)
        for part in bootstrap_weights(len(won), resamples, seed)
        for drawn in part
    ]
    (interval,) = percentiles(np.array([rate.mean()]), np.array(resampled)[:, None])
    both_signs = min((lengths > 0).mean(), (lengths < 0).mean()) >= _LEAST_SHARE
    reliable = bool(both_signs and coefficients[0] != 0)
    psi = None if hard is None else float(coefficients[2])
    model, length = float(coefficients[0]), float(coefficients[1])
    return LengthControlled(interval, model, length, psi, reliable, len(won))


def standardised(lengths: Floats) -> Floats:
    """Differences divided by their sample standard deviation, not centred; zeros where they do not vary."""
    deviation = lengths.std(ddof=1)
    return lengths / deviation if deviation > 0 else np.zeros_like(lengths)


def instruction_difficulty(preferences: Floats, lengths: Floats) -> Floats | None:
    """How difficult each instruction is, fitted jointly over models.

    Args:
        preferences: [M, N] probability that model m wins instruction x against the baseline.
        lengths: [M, N] length of the model's answer less that of the baseline's, characters.

    Returns:
        [N] gamma, high where models win, 0 on average; None for fewer than two models.
    """
    models, prompts = preferences.shape
    if models < 2:
        return None
    design = np.zeros((models * prompts, 2 * models + prompts))
    rows = np.arange(models * prompts)
    design[rows, np.repeat(np.arange(models), prompts)] = 1
    design[rows, models + np.repeat(np.arange(models), prompts)] = np.tanh(
        np.concatenate([standardised(row) for row in lengths])
    )
    design[rows, 2 * models + np.tile(np.arange(prompts), models)] = 1
    penalty = np.full(design.shape[1], _RIDGE)
    gamma = fit_ridge(design, preferences.reshape(-1), penalty)[2 * models :]
    return gamma - gamma.mean()


def _features(lengths: Floats, own: Floats, difficulty: Floats | None) -> Floats:
    columns = [own, np.tanh(lengths)] + ([] if difficulty is None else [difficulty])
    return np.stack(columns, 1)


def _at_equal_length(coefficients: Floats, difficulty: Floats | None, prompts: int) -> Floats:
    hard = np.zeros(prompts) if difficulty is None else coefficients[2] * difficulty
    return sigmoid(coefficients[0] + hard)


def _refitted(
    features: Floats,
    targets: Floats,
    weights: Floats,
    strength: float,
    first: int,
    drawn: Floats,
    difficulty: Floats | None,
    start: Floats,
) -> float:
    """The rate where prompts count as often as they were drawn; the gamed rows before `first` stay."""
    counted = weights.copy()
    counted[first:] *= drawn
    coefficients = fit_l1(features, targets, counted, strength, start)
    return float((drawn * _at_equal_length(coefficients, difficulty, len(drawn))).sum() / drawn.sum())
