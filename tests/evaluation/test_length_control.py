"""The length-controlled win rate: what is known in simulation, and published numbers on real verdicts."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from lit_align.core.errors import DataError
from lit_align.evaluation.length_control import Gamed, instruction_difficulty, length_controlled, standardised
from lit_align.evaluation.logistic import sigmoid


def world(quality: float, factor: float, seed: int, prompts: int = 805):
    """A judge that likes quality, easy instructions, and length by 1.2 tanh of its standardised difference."""
    generator = np.random.default_rng(seed)
    theirs = generator.lognormal(7, 0.4, prompts)
    ours = factor * generator.lognormal(7, 0.4, prompts)
    difficulty = generator.normal(size=prompts)
    logits = quality + 0.3 * difficulty + 1.2 * np.tanh(standardised(ours - theirs))
    won = (generator.uniform(size=prompts) < sigmoid(logits)).astype(float)
    return won, ours, theirs, difficulty


def test_length_alone_does_not_win():
    raw, controlled = [], []
    for seed in range(3):
        won, ours, theirs, difficulty = world(0.0, 2.0, seed)
        raw.append(won.mean())
        controlled.append(length_controlled(won, ours, theirs, difficulty, resamples=2).rate.mean)
    assert np.mean(raw) > 0.65
    assert np.abs(np.array(controlled) - 0.5).max() < 0.08


def test_quality_is_found_where_answers_are_short():
    won, ours, theirs, difficulty = world(0.8, 0.6, 0)
    truth = sigmoid(0.8 + 0.3 * difficulty).mean()
    found = length_controlled(won, ours, theirs, difficulty)
    assert abs(found.rate.mean - truth) < 0.08
    assert found.rate.low < truth < found.rate.high
    assert abs(found.rate.mean - truth) < abs(won.mean() - truth) / 3
    assert found.length == pytest.approx(1.2, abs=0.5)


def test_two_models_change_places():
    won, ours, theirs, difficulty = world(0.5, 1.3, 2)
    one = length_controlled(won, ours, theirs, difficulty, resamples=2)
    other = length_controlled(1 - won, theirs, ours, -difficulty, resamples=2)
    assert one.rate.mean + other.rate.mean == pytest.approx(1, abs=1e-6)
    assert one.length == pytest.approx(other.length, abs=1e-5)


def test_without_difficulty_the_rate_is_the_model_term():
    won, ours, theirs, _ = world(0.5, 1.0, 1)
    found = length_controlled(won, ours, theirs, resamples=20)
    assert found.difficulty is None
    assert found.rate.mean == pytest.approx(sigmoid(np.array(found.model)))
    assert found.prompts == 805
    assert found == length_controlled(won, ours, theirs, resamples=20)


def test_lengths_of_one_sign_are_said_to_be_unreliable():
    won, ours, theirs, _ = world(0.5, 1.0, 0)
    assert length_controlled(won, ours, theirs, resamples=2).reliable
    assert not length_controlled(won, ours + 1e6, theirs, resamples=2).reliable
    assert length_controlled(won, theirs, theirs, resamples=2).length == 0


def test_a_penalty_that_takes_all_is_said_to_be_unreliable():
    found = length_controlled([1, 0, 1, 0, 1, 0, 1, 0, 0, 1], [5, 9, 1, 7, 3, 9, 2, 2, 8, 9], [5, 5] * 5)
    assert found.model == 0
    assert not found.reliable


def test_too_few_prompts():
    with pytest.raises(DataError, match="too few prompts"):
        length_controlled([1, 0], [1, 2], [2, 1])


def test_gamed_answers_hold_the_effect_of_length():
    """Where the model's own answers are all as long, only the baseline's gamed ones tell what length does."""
    won = np.array([1.0, 0.0, 1.0, 1.0] * 50)
    lengths = np.full(200, 100.0)
    generator = np.random.default_rng(0)
    shorter = generator.normal(size=400)
    gamed = Gamed(sigmoid(-2 * np.tanh(shorter)), shorter, np.zeros(400))
    alone, held = (length_controlled(won, lengths, lengths, gamed=given, resamples=2) for given in (None, gamed))
    assert alone.length == 0
    assert held.length == pytest.approx(2, abs=0.3)
    assert held.rate.mean == pytest.approx(0.75, abs=0.01)


def test_difficulty_is_found_jointly():
    generator = np.random.default_rng(0)
    gamma = generator.normal(size=120)
    lengths = generator.normal(size=(6, 120))
    models = np.linspace(-2, 1, 6)[:, None]
    chances = sigmoid(models + gamma + 0.7 * np.tanh(np.stack([standardised(row) for row in lengths])))
    found = instruction_difficulty(chances, lengths)
    assert found == pytest.approx(gamma - gamma.mean(), abs=0.06)
    assert instruction_difficulty(chances[:1], lengths[:1]) is None


PUBLISHED = {
    # model: (win rate, length-controlled win rate), % of 805 prompts; AlpacaEval 2's leaderboard.
    "claude-2.1": (15.73, 25.25),
    "gpt-3.5-turbo-1106": (9.18, 19.30),
    "vicuna-13b-v1.5": (6.72, 10.48),
    "alpaca-7b": (2.59, 5.88),
    "phi-2-sft": (3.98, 5.85),
    "gemma-2b-it": (3.40, 5.44),
    "falcon-7b-instruct": (2.15, 4.04),
}


def test_published_win_rates_are_met(shared_dir):
    """711 of the 805 prompts, difficulty from 8 models in place of the authors' many, and no gamed answers.

    Measured, ours less theirs: raw -0.6 to +0.1 points, length-controlled -3.1 to +0.4.
    """
    with gzip.open(shared_dir / "data" / "alpaca_eval_ranked.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    names = rows[0]["models"]
    scores = np.array([row["scores"] for row in rows]).T
    lengths = np.array([[len(response) for response in row["responses"]] for row in rows], dtype=float).T
    base, others = 0, range(1, len(names))
    difficulty = instruction_difficulty(scores[1:], lengths[1:] - lengths[base])
    raw, controlled = {}, {}
    for index in others:
        raw[names[index]] = 100 * scores[index].mean()
        rate = length_controlled(scores[index], lengths[index], lengths[base], difficulty, resamples=1).rate
        controlled[names[index]] = 100 * rate.mean
    for name, (theirs, theirs_controlled) in PUBLISHED.items():
        assert raw[name] == pytest.approx(theirs, abs=0.6)
        assert controlled[name] == pytest.approx(theirs_controlled, abs=3.5)
        assert controlled[name] > raw[name], "all of them answer more briefly than the baseline"
    best = [sorted(PUBLISHED, key=key)[-3:] for key in (controlled.get, lambda name: PUBLISHED[name][1])]
    assert best[0] == best[1]
