"""RSO's round: what the sampler accepts, and the pairs of it."""

from __future__ import annotations

import math

import pytest

from lit_align.callbacks import RSO
from lit_align.core.errors import ConfigError
from lit_align.loops.live import by_prompt
from tests.callbacks.judged import LOOP, Likes, Prefers, check_interrupted, write_prompts
from tests.loops.loop_runs import dpo, rows, run_loop

SETTINGS = LOOP | {"samples": 8, "accepted": 4, "rounds": 1}


def loop(judge=None, **settings) -> RSO:
    return RSO(judge or Likes(), **(SETTINGS | settings))


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_prompts(tmp_path_factory.mktemp("seed"))


def _scores(folder):
    return {(row["id"], row["sample"]): row["score"] for row in rows(folder, 1, "scores")}


@pytest.mark.parametrize(("ranking", "pairs"), [("first_round", 2), ("tournament", 3)])
def test_accepted_answers_meet_and_the_better_one_is_chosen(ranking, pairs, tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(ranking=ranking))
    scores, accepted = _scores(tmp_path), by_prompt(rows(tmp_path, 1, "accepted"))
    learnt = by_prompt(
        [row | {"id": row["id"].split("/")[1], "which": row["id"]} for row in rows(tmp_path, 1, "train")]
    )
    assert len(learnt) == 6
    for name, of in learnt.items():
        taken = [row["sample"] for row in accepted[name]]
        assert len(taken) == len({*taken}) == 4
        assert len(of) == pairs
        for row in of:
            better, worse = map(int, row["which"].split("/")[2].split("-"))
            assert {better, worse} <= {*taken}
            assert row["score_chosen"] == scores[name, better] > scores[name, worse] == row["score_rejected"]


def test_a_cold_sampler_accepts_the_best_and_a_hot_one_the_first(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path / "cold", dpo(tiny_model_dir), seed_file, loop(sampler_beta=1e-6))
    scores = by_prompt(rows(tmp_path / "cold", 1, "scores"))
    for name, of in by_prompt(rows(tmp_path / "cold", 1, "accepted")).items():
        best = sorted(scores[name], key=lambda row: -row["score"])[:4]
        assert {row["sample"] for row in of} == {row["sample"] for row in best}
    run_loop(tmp_path / "hot", dpo(tiny_model_dir), seed_file, loop(sampler_beta=1e9))
    for of in by_prompt(rows(tmp_path / "hot", 1, "accepted")).values():
        assert sorted(row["sample"] for row in of) == [0, 1, 2, 3]


def test_of_a_judge_of_pairs_the_reward_is_the_log_odds_to_beat_the_first_answer(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(Prefers()))
    texts = {(row["id"], row["sample"]): row["completion"] for row in rows(tmp_path, 1, "candidates")}
    for (name, sample), score in _scores(tmp_path).items():
        better = Likes().score_of(texts[name, sample]) > Likes().score_of(texts[name, 0])
        assert score == pytest.approx(0.0 if sample == 0 else math.log(9) * (1 if better else -1))
    left_out = rows(tmp_path, 1, "accepted")
    assert len(left_out) == 24


def test_unfinished_answers_are_no_candidates(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(missing_eos_penalty=None, max_new_tokens=60, samples=16))
    finished = {(row["id"], row["sample"]): row["finished"] for row in rows(tmp_path, 1, "candidates")}
    accepted = rows(tmp_path, 1, "accepted")
    assert accepted
    assert all(finished[row["id"], row["sample"]] for row in accepted)


def test_it_survives_being_ended_anywhere(tiny_model_dir, seed_file, tmp_path):
    check_interrupted(tmp_path, lambda: (dpo(tiny_model_dir), loop()), seed_file)


@pytest.mark.parametrize("settings", [{"accepted": 1}, {"accepted": 9}, {"sampler_beta": 0.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        loop(**settings)
