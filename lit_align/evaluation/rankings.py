"""Rankings of many models that answered the same prompts: by mean score, by Bradley-Terry, and by Elo.

R. Bradley, M. Terry, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons", Biometrika 39
(1952): P(a beats b) = sigmoid(t_a - t_b), with t of maximum likelihood; a tie is half a win for each. Unlike Elo's, the
result does not depend on the order of the games. Both are on Elo's scale: 400 points are odds of ten to one, and the
mean of the models is 1000. Every interval is from a bootstrap over prompts, so that games on one prompt stay together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lit_align.core.errors import DataError
from lit_align.evaluation.intervals import Floats, Interval, Ints, Mask, bootstrap_weights, percentiles
from lit_align.evaluation.logistic import sigmoid

SCALE = 400 / math.log(10)
"""Points of rating in a unit of log-odds."""
CENTRE = 1000.0
_RESAMPLES = 1000
_ELO_RESAMPLES = 200
_ELO_STEP = 4.0
_RIDGE = 1e-6
"""Keeps the ratings finite where a model has won, or lost, all of its games."""


class Ranking(NamedTuple):
    """Ratings of M models, best first."""

    names: list[str]
    ratings: list[Interval]
    groups: list[str]
    """Letters of each model: two models that share one are not told apart."""
    notes: list[str]
    """What the ratings do not say by themselves."""


def by_mean(names: Sequence[str], scores: Floats, seed: int = 0) -> Ranking:
    """Rank by mean score over the prompts that a model has a score for.

    Args:
        names: of M models.
        scores: [N, M], higher is better; nan where a model has none.
        seed: of the bootstrap.
    """
    there = ~np.isnan(scores)
    missing = [name for index, name in enumerate(names) if not there[:, index].any()]
    if missing:
        raise DataError("a model has no score", value=missing, fix="score its responses, or leave it out")
    filled = np.where(there, scores, 0.0)
    means = filled.sum(0) / there.sum(0)
    resampled = []
    for weights in bootstrap_weights(len(scores), _RESAMPLES, seed):
        sizes = weights @ there
        # A model with few scores may be in none of a resample's prompts.
        resampled.append(np.where(sizes > 0, (weights @ filled) / np.maximum(sizes, 1), means))
    return _ranking(names, means, np.concatenate(resampled), [])


def bradley_terry(names: Sequence[str], scores: Floats, seed: int = 0) -> Ranking:
    """Rank by the ratings that make the outcomes of all games likeliest.

    Args:
        names: of M models.
        scores: [N, M]; on each prompt every two models that have a score play a game, and the higher score wins.
        seed: of the bootstrap.

    Raises:
        DataError: some models have no game with others, directly or through further models.
    """
    won = wins_by_prompt(scores)
    total = won.sum(0)
    _check_connected(names, total)
    flat = won.reshape(len(won), -1)
    shape = (-1, len(names), len(names))
    resampled = [
        fit_bradley_terry((weights @ flat).reshape(shape))
        for weights in bootstrap_weights(len(scores), _RESAMPLES, seed)
    ]
    estimates = fit_bradley_terry(total[None])[0]
    return _ranking(names, CENTRE + SCALE * estimates, CENTRE + SCALE * np.concatenate(resampled), _notes(names, total))


def elo(names: Sequence[str], scores: Floats, seed: int = 0, resamples: int = _ELO_RESAMPLES) -> Ranking:
    """Rank by Elo's updates, averaged over orders of the games, since one order alone would decide by chance.

    Args:
        names: of M models.
        scores: [N, M], as for `bradley_terry`.
        seed: of the orders and of the bootstrap.
        resamples: orders, and resamples with an order each.
    """
    won = wins_by_prompt(scores)
    _check_connected(names, won.sum(0))
    games = _games(won)
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(len(games.prompt)).astype(np.int32) for _ in range(resamples)])
    estimates = play(games, orders, len(names)).mean(0)
    by_prompt = [np.flatnonzero(games.prompt == prompt) for prompt in range(len(scores))]
    drawn = []
    for weights in bootstrap_weights(len(scores), resamples, seed):
        for counts in weights:
            chosen = [by_prompt[prompt] for prompt in np.repeat(np.arange(len(counts)), counts)]
            drawn.append(generator.permutation(np.concatenate(chosen).astype(np.int32)))
    # Where some prompts lack models, resamples have different numbers of games: they end with draws of a model with
    # itself, which change nothing.
    longest, draw = max(map(len, drawn)), len(games.prompt)
    games = Games(*(np.append(column, value) for column, value in zip(games, (-1, 0, 0, 0.5), strict=True)))
    drawn = [np.pad(order, (0, longest - len(order)), constant_values=draw) for order in drawn]
    resampled = play(games, np.stack(drawn), len(names))
    note = f"Elo: mean of {resamples} orders of the games, K = {_ELO_STEP:g}; its intervals hold the order's chance too"
    return _ranking(names, estimates, resampled, [note])


# -------------------------------------------------------------------- games


class Games(NamedTuple):
    """Outcomes of G games."""

    prompt: Ints
    first: Ints
    second: Ints
    result: Floats
    """1 the first won, 0 the second, 0.5 neither."""


def wins_by_prompt(scores: Floats) -> Floats:
    """[N, M, M] from scores [N, M]: 1 where the model of the row beats that of the column, 0.5 for each in a tie."""
    mine, others = scores[:, :, None], scores[:, None, :]
    won = np.where(mine == others, 0.5, (mine > others).astype(np.float64))
    won[np.isnan(mine) | np.isnan(others)] = 0
    won[:, np.arange(scores.shape[1]), np.arange(scores.shape[1])] = 0
    return won


def _games(won: Floats) -> Games:
    first, second = np.triu_indices(won.shape[1], 1)
    played = (won + won.transpose(0, 2, 1))[:, first, second] > 0
    prompt, pair = np.nonzero(played)
    one, other = first[pair], second[pair]
    return Games(prompt.astype(np.int64), one.astype(np.int64), other.astype(np.int64), won[prompt, one, other])


def play(games: Games, orders: npt.NDArray[np.integer[Any]], models: int) -> Floats:
    """Elo's ratings [R, M] after the games, in each of R orders [R, G]; everybody starts at the centre."""
    ratings = np.full((len(orders), models), CENTRE)
    rows = np.arange(len(orders))
    for game in orders.T:
        one, other = games.first[game], games.second[game]
        expected = sigmoid((ratings[rows, one] - ratings[rows, other]) / SCALE)
        change = _ELO_STEP * (games.result[game] - expected)
        ratings[rows, one] += change
        ratings[rows, other] -= change
    return ratings


def fit_bradley_terry(wins: Floats) -> Floats:
    """Log-odds ratings [R, M] of maximum likelihood, of mean 0, for each of R tables of wins [R, M, M].

    Newton's method on all tables at once; a ridge too weak to be seen elsewhere bounds ratings that would be infinite.
    """
    tables, models = len(wins), wins.shape[1]
    games = wins + wins.transpose(0, 2, 1)
    ratings = np.zeros((tables, models))
    eye = np.eye(models)
    for _ in range(200):
        chance = sigmoid(ratings[:, :, None] - ratings[:, None, :])
        gradient = (wins - games * chance).sum(2) - _RIDGE * ratings
        weight = games * chance * (1 - chance)
        curvature = eye * weight.sum(2)[:, :, None] - weight + _RIDGE * eye
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        # Far from the optimum, where the likelihood is flat, whole steps go astray.
        ratings += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return ratings - ratings.mean(1, keepdims=True)


def _check_connected(names: Sequence[str], wins: Floats) -> None:
    parts = _components((wins + wins.T) > 0)
    if len(parts) > 1:
        listed = "; ".join(", ".join(names[index] for index in part) for part in parts)
        fix = "let models of different groups answer the same prompts, or rank each group by itself"
        raise DataError("models that never met cannot be ranked together", value=listed, fix=fix)


def _components(linked: Mask) -> list[list[int]]:
    """Groups of nodes that edges connect, in whatever direction."""
    unseen, parts = set(range(len(linked))), []
    while unseen:
        part, border = set(), {min(unseen)}
        while border:
            node = border.pop()
            part.add(node)
            border |= set(np.flatnonzero(linked[node]).tolist()) - part
        unseen -= part
        parts.append(sorted(part))
    return parts


def _notes(names: Sequence[str], wins: Floats) -> list[str]:
    notes = []
    for index, name in enumerate(names):
        won, lost = wins[index].sum(), wins[:, index].sum()
        if not won or not lost:
            notes.append(f"{name} has {'lost' if lost else 'won'} every game: its rating has no finite value")
    return notes


# -------------------------------------------------------------------- who is told apart


def _ranking(names: Sequence[str], estimates: Floats, resampled: Floats, notes: list[str]) -> Ranking:
    """Sort models, best first, with intervals and groups.

    Args:
        names: of M models.
        estimates: [M].
        resampled: [R, M], the same from resamples.
        notes: to go with it.
    """
    order = np.argsort(-estimates, kind="stable")
    intervals = percentiles(estimates, resampled)
    apart = told_apart(resampled[:, order])
    return Ranking(
        [names[index] for index in order], [intervals[index] for index in order], letters(apart), list(notes)
    )


def told_apart(resampled: Floats) -> Mask:
    """[M, M] whether the difference of two models has the same sign in the middle 95 % of resamples [R, M]."""
    differences = resampled[:, :, None] - resampled[:, None, :]
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    return (low > 0) | (high < 0)


def letters(apart: Mask) -> list[str]:
    """Letters of models in the order of their ranks: neighbours that share one are not told apart.

    A group runs from its best model to the last in a row that is not told apart from any other of the group.

    Args:
        apart: [M, M].
    """
    groups: list[tuple[int, int]] = []
    for start in range(len(apart)):
        end = start
        while end + 1 < len(apart) and not apart[end + 1, start : end + 1].any():
            end += 1
        if not groups or end > groups[-1][1]:
            groups.append((start, end))
    return [
        "".join(_letter(number) for number, (start, end) in enumerate(groups) if start <= index <= end)
        for index in range(len(apart))
    ]


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"({number + 1})"
