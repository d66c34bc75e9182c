"""Rankings: known odds, models that never met, order, and who is told apart."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from lit_align.core.errors import DataError
from lit_align.evaluation.rankings import (
    CENTRE,
    SCALE,
    Games,
    bradley_terry,
    by_mean,
    elo,
    fit_bradley_terry,
    letters,
    play,
    told_apart,
    wins_by_prompt,
)

NAN = math.nan


def test_two_models_at_three_to_one():
    ratings = fit_bradley_terry(np.array([[[0.0, 3.0], [1.0, 0.0]]]))[0]
    assert ratings == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-5)


def test_ties_are_half_a_win_each():
    scores = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 1.0], [5.0, 4.0]])
    won = wins_by_prompt(scores).sum(0)
    assert won.tolist() == [[0, 2.5], [1.5, 0]]
    found = bradley_terry(["a", "b"], scores)
    assert found.names == ["a", "b"]
    assert found.ratings[0].mean - found.ratings[1].mean == pytest.approx(400 * math.log10(2.5 / 1.5), abs=1e-2)
    assert sum(rating.mean for rating in found.ratings) == pytest.approx(2 * CENTRE)


def test_ratings_are_those_that_the_games_were_drawn_from():
    generator = np.random.default_rng(0)
    truth = np.array([0.8, 0.2, -0.1, -0.9])
    wins = np.zeros((4, 4))
    for one in range(4):
        for other in range(one):
            share = generator.binomial(4000, 1 / (1 + math.exp(truth[other] - truth[one])))
            wins[one, other], wins[other, one] = share, 4000 - share
    assert fit_bradley_terry(wins[None])[0] == pytest.approx(truth, abs=0.05)


def test_ratings_fit_the_expected_wins():
    """At the maximum every model has won as often as the ratings say."""
    wins = np.random.default_rng(1).integers(1, 9, size=(5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    ratings = fit_bradley_terry(wins[None])[0]
    chance = 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))
    assert ((wins + wins.T) * chance).sum(1) - np.diag((wins + wins.T) * chance) == pytest.approx(wins.sum(1), abs=1e-4)


def test_models_that_never_met():
    scores = np.array([[1.0, 0.0, NAN, NAN], [NAN, NAN, 0.0, 1.0]])
    for rank in (bradley_terry, elo):
        with pytest.raises(DataError, match="never met") as caught:
            rank(["a", "b", "c", "d"], scores)
        assert "a, b; c, d" in str(caught.value)
    linked = np.vstack([scores, [NAN, 1.0, 0.0, NAN], [NAN, 0.0, 1.0, NAN]])
    assert len(bradley_terry(["a", "b", "c", "d"], linked).names) == 4


def test_a_model_that_always_wins_is_said_to():
    found = bradley_terry(["a", "b"], np.array([[1.0, 0.0]] * 5))
    assert found.notes == [
        "a has won every game: its rating has no finite value",
        "b has lost every game: its rating has no finite value",
    ]
    assert all(math.isfinite(value) for rating in found.ratings for value in rating)


def test_mean_scores():
    found = by_mean(["a", "b", "c"], np.array([[1.0, 5.0, NAN], [2.0, 5.0, 3.0], [3.0, 5.0, NAN]]))
    assert found.names == ["b", "c", "a"]
    assert [rating.mean for rating in found.ratings] == [5, 3, 2]
    assert found.ratings[0] == (5, 5, 5)
    with pytest.raises(DataError, match="no score"):
        by_mean(["a", "b"], np.array([[1.0, NAN]]))


def test_elo_is_the_update_by_hand():
    games = Games(np.array([0, 1]), np.array([0, 0]), np.array([1, 1]), np.array([1.0, 0.5]))
    first = 4 * 0.5
    second = 4 * (0.5 - 1 / (1 + 10 ** (-2 * first / 400)))
    expected = [[CENTRE + first + second, CENTRE - first - second]]
    assert play(games, np.array([[0, 1]]), 2) == pytest.approx(np.array(expected), abs=1e-9)
    assert pytest.approx(400 / math.log(10)) == SCALE


def test_elo_does_not_hang_on_one_order():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(300, 3)) + np.array([0.6, 0.0, -0.6])
    names = ["a", "b", "c"]
    found = elo(names, scores, resamples=50)
    shuffled = elo(names, scores[generator.permutation(300)], resamples=50)
    assert found.names == names
    assert [r.mean for r in found.ratings] == pytest.approx([r.mean for r in shuffled.ratings], abs=8)
    exact = bradley_terry(names, scores)
    assert [r.mean for r in exact.ratings] == [
        pytest.approx(r.mean, abs=1e-6) for r in bradley_terry(names, scores[::-1]).ratings
    ]
    assert [r.mean for r in found.ratings] == pytest.approx([r.mean for r in exact.ratings], abs=30)
    assert sum(r.mean for r in found.ratings) == pytest.approx(3 * CENTRE)


def test_who_is_told_apart():
    draws = np.random.default_rng(0).normal(size=(500, 1))
    # The second differs from the first by the same in every resample, though both vary a lot.
    resampled = np.hstack([draws, draws - 0.1, draws - 0.1 + np.random.default_rng(1).normal(size=(500, 1))])
    assert told_apart(resampled).tolist() == [[False, True, False], [True, False, False], [False, False, False]]


@pytest.mark.parametrize(
    ("apart", "expected"),
    [
        ([], ["a", "a", "a"]),
        ([(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        ([(0, 2)], ["a", "ab", "b"]),
        ([(0, 1), (0, 2)], ["a", "b", "b"]),
        ([(0, 1)], ["a", "b", "b"]),
    ],
)
def test_letters(apart, expected):
    matrix = np.zeros((3, 3), dtype=bool)
    for one, other in apart:
        matrix[one, other] = matrix[other, one] = True
    assert letters(matrix) == expected


def test_nine_real_models(shared_dir):
    with gzip.open(shared_dir / "data" / "alpaca_eval_ranked.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    scores = np.array([row["scores"] for row in rows])
    mean, exact = by_mean(rows[0]["models"], scores), bradley_terry(rows[0]["models"], scores)
    assert mean.names == exact.names
    assert mean.names[:4] == ["gpt4_1106_preview", "claude-2.1", "gpt-3.5-turbo-1106", "vicuna-13b-v1.5"]
    assert exact.groups[:4] == ["a", "b", "c", "d"]


def test_elo_of_prompts_that_lack_models():
    """A resample may hold few games, or none; the others are played to their end all the same."""
    scores = np.full((10, 2), np.nan)
    scores[:, 0], scores[:2, 1] = 1.0, 0.0
    ranking = elo(["better", "worse"], scores)
    best = ranking.ratings[0]
    assert best.mean == pytest.approx(1000 + 2 + 4 * (1 - 1 / (1 + 10 ** (-4 / 400))))
    assert best.low == 1000
    assert best.high > best.mean + 2
