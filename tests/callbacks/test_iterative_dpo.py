"""Iterative DPO's rounds: the best answer against the worst, by either kind of judge, whatever interrupts them."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch

from lit_align.callbacks import IterativeDPO
from lit_align.core.errors import ConfigError, DataError
from lit_align.judges import LengthNormalised, RewardModelJudge
from lit_align.loops.judging import described
from lit_align.loops.live import by_prompt
from lit_align.methods.ilr_dpo import IterativeLRDPO
from tests.callbacks.judged import LOOP, Likes, Prefers, check_interrupted, write_prompts
from tests.loops.loop_runs import dpo, rows, run_loop, weights


def loop(judge=None, **settings) -> IterativeDPO:
    return IterativeDPO(judge or Likes(), **(LOOP | {"samples": 4} | settings))


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_prompts(tmp_path_factory.mktemp("seed"))


def _judged(folder, number=1):
    """(answer, score) of each prompt in a round."""
    scores = {(row["id"], row["sample"]): row["score"] for row in rows(folder, number, "scores")}
    found = by_prompt(rows(folder, number, "candidates"))
    return {name: [(row["completion"], scores[name, row["sample"]]) for row in of] for name, of in found.items()}


@pytest.mark.parametrize("judge", [Likes, Prefers])
def test_the_best_answer_stands_against_the_worst(judge, tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(judge()))
    for number in (1, 2):
        answers = _judged(tmp_path, number)
        pairs = rows(tmp_path, number, "pairs")
        assert len(pairs) == len(answers) == 6
        for pair in pairs:
            texts = sorted((text for text, _ in answers[pair["id"].split("/")[1]]), key=Likes().score_of)
            assert (pair["chosen"], pair["rejected"]) == (texts[-1], texts[0])
            assert pair["score_chosen"] > pair["score_rejected"]


def test_a_judge_of_pairs_gives_how_often_an_answer_wins(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(Prefers(), rounds=1))
    for of in _judged(tmp_path).values():
        # Against itself one half, against the three others 0.9 or 0.1 each.
        assert sorted(score for _, score in of) == pytest.approx(
            [(0.5 + 0.9 * k + 0.1 * (3 - k)) / 4 for k in range(4)]
        )


def test_the_judge_is_released_when_a_round_is_made(tiny_model_dir, seed_file, tmp_path):
    judge = Likes()
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(judge))
    assert judge.released == 2


class Draws(Likes):
    """A judge of a user's, who draws random numbers."""

    def _score(self, prompts, completions, columns):
        torch.rand(len(completions))
        random.random()
        return super()._score(prompts, completions, columns)


def test_a_judge_who_draws_random_numbers_changes_no_training(tiny_model_dir, seed_file, tmp_path):
    """Where a killed run goes on, it is not asked again."""
    plain, drawn = (
        weights(run_loop(tmp_path / kind.__name__, dpo(tiny_model_dir, dropout=True), seed_file, loop(kind())))
        for kind in (Likes, Draws)
    )
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)


def test_another_model_in_the_same_folder_is_another_judge(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "judge")
    one = described(RewardModelJudge(str(tmp_path / "judge")))
    shutil.copytree(tiny_model_dir, tmp_path / "elsewhere")
    assert described(RewardModelJudge(str(tmp_path / "elsewhere"))) == one
    (tmp_path / "judge" / "config.json").write_text((tmp_path / "judge" / "config.json").read_text() + "\n")
    assert described(RewardModelJudge(str(tmp_path / "judge"))) != one
    assert described("x" * 5000) == "x" * 5000
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "judge")})
    )
    adapted = described(str(tmp_path / "adapters"))
    (tmp_path / "judge" / "config.json").write_text("{}")
    assert described(str(tmp_path / "adapters")) != adapted


def test_an_empty_setting_is_not_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert described("") == ""


def test_the_reference_stays_and_all_rounds_are_learnt_from(tiny_model_dir, seed_file, tmp_path):
    module = run_loop(tmp_path / "paper", dpo(tiny_model_dir), seed_file, loop())
    assert not module.reference_will_refresh
    assert {row["round"] for row in rows(tmp_path / "paper", 2, "train")} == {1, 2}
    module = run_loop(tmp_path / "scripts", dpo(tiny_model_dir), seed_file, loop(reference="previous", reuse="none"))
    assert module.reference_will_refresh
    assert {row["round"] for row in rows(tmp_path / "scripts", 2, "train")} == {2}


def test_it_is_ilr_dpo_with_its_method(tiny_model_dir, seed_file, tmp_path):
    method = IterativeLRDPO(policy=tiny_model_dir, alpha=0.1)
    run_loop(tmp_path, method, seed_file, loop(reference="previous", reuse="none"))
    assert rows(tmp_path, 2, "train")


def test_a_price_of_length_changes_which_answers_are_picked(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(rounds=1, length_price=100.0))
    tokens = by_prompt(rows(tmp_path, 1, "candidates"))
    for pair in rows(tmp_path, 1, "pairs"):
        of = tokens[pair["id"].split("/")[1]]
        best, worst = map(int, pair["id"].split("/")[2].split("-"))
        assert of[best]["tokens"] == min(row["tokens"] for row in of)
        assert of[worst]["tokens"] == max(row["tokens"] for row in of)


def test_a_hotter_enhancer_writes_half_of_the_answers(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(samples=5, rounds=1, enhancer="temperature"))
    for name, of in by_prompt(rows(tmp_path, 1, "candidates")).items():
        own = by_prompt(rows(tmp_path, 1, "own"))[name]
        hotter = by_prompt(rows(tmp_path, 1, "enhancer"))[name]
        assert [row["sample"] for row in of] == [0, 1, 2, 3, 4]
        assert [row["completion"] for row in of] == [row["completion"] for row in (*own, *hotter)]
        assert len(own) == 3
    run_loop(tmp_path / "cold", dpo(tiny_model_dir), seed_file, loop(rounds=1, enhancer="temperature",
                                                                     enhancer_temperature=0.0))  # fmt: skip
    # At temperature 0 the samples are alike, so it was the enhancer's that was used.
    assert all(
        len({row["completion"] for row in of}) == 1 for of in by_prompt(rows(tmp_path / "cold", 1, "enhancer")).values()
    )


@pytest.mark.parametrize(("enhancer", "pick"), [("best_of_n", max), ("worst_of_n", min)])
def test_an_enhancer_that_picks_stands_against_the_first_answer(enhancer, pick, tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(rounds=1, enhancer=enhancer))
    answers = _judged(tmp_path)
    for pair in rows(tmp_path, 1, "pairs"):
        (first, _), *others = answers[pair["id"].split("/")[1]]
        assert {pair["chosen"], pair["rejected"]} == {first, pick(others, key=lambda both: both[1])[0]}


@pytest.mark.parametrize(
    ("enhancer", "settings", "picked"),
    [
        ("best_of_n", {}, 5),
        ("worst_of_n", {}, 1),
        ("best_of_n", {"max_chars": 20}, 4),
        ("best_of_n", {"max_chars": 20, "length_price": 1.0}, 2),
        ("worst_of_n", {"length_price": 1.0}, 5),
        ("worst_of_n", {"missing_eos_penalty": None}, 2),
    ],
)
def test_an_enhancer_picks_by_the_rule_of_the_pairs(enhancer, settings, picked):
    texts = ["red", "blue", "green", "red", "a small old one", "something large, old and blue"]
    found = zip(texts, (3.0, 1.0, 2.0, 9.0, 5.0, 6.0), (1, 1, 1, 1, 6, 40), strict=True)
    candidates, scores = [], []
    for sample, (text, score, tokens) in enumerate(found):
        of = {"id": "1", "sample": sample}
        candidates.append(of | {"completion": text, "tokens": tokens, "finished": sample != 1})
        scores.append(of | {"score": score, "reason": ""})
    kept = loop(enhancer=enhancer, **settings)._entrants(candidates, scores)
    # The fourth is what the first is, and so no other answer.
    assert [row["sample"] for row in kept] == [0, picked]


def test_where_an_enhancer_can_pick_nothing_all_answers_are_counted(tiny_model_dir, seed_file, tmp_path):
    settings = {"missing_eos_penalty": None, "max_new_tokens": 1, "enhancer": "best_of_n"}
    with pytest.raises(DataError, match="24 answer that did not come to its end"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(**settings))


def test_unfinished_answers_are_left_out_or_worth_less(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(DataError, match="round 1: the judge tells no two answers apart") as error:
        run_loop(tmp_path / "out", dpo(tiny_model_dir), seed_file, loop(missing_eos_penalty=None, max_new_tokens=1))
    assert "answer that did not come to its end" in str(error.value)
    judged = loop(rounds=1, missing_eos_penalty=50.0)
    run_loop(tmp_path / "less", dpo(tiny_model_dir), seed_file, judged)
    finished = {(row["id"], row["sample"]): row["finished"] for row in rows(tmp_path / "less", 1, "candidates")}
    raw = {(row["id"], row["sample"]): row["score"] for row in rows(tmp_path / "less", 1, "scores")}
    assert not all(finished.values())
    for pair in rows(tmp_path / "less", 1, "pairs"):
        name, best = pair["id"].split("/")[1], int(pair["id"].split("/")[2].split("-")[0])
        assert pair["score_chosen"] == pytest.approx(raw[name, best] - 50.0 * (not finished[name, best]))


def test_another_judge_makes_other_rounds(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(rounds=1))
    first = rows(tmp_path, 1, "pairs")
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(Likes(sign=-1.0), rounds=1))
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in first]
    assert [row["chosen"] for row in rows(tmp_path, 1, "pairs")] == [row["chosen"] for row in swapped]


def test_it_survives_being_ended_anywhere(tiny_model_dir, seed_file, tmp_path):
    check_interrupted(tmp_path, lambda: (dpo(tiny_model_dir), loop(enhancer="temperature")), seed_file)


@pytest.mark.parametrize("settings", [{"samples": 1}, {"min_valid": 1}, {"rule": "first"}, {"min_margin": -1.0}])
def test_settings_that_make_no_pairs_are_refused(settings):
    with pytest.raises(ConfigError):
        loop(**settings)


def test_a_judge_whose_scores_hang_on_what_it_has_seen_is_refused():
    with pytest.raises(ConfigError, match="by what it has seen before"):
        loop(LengthNormalised(Likes(), unit="words"))
    loop(LengthNormalised(Likes(), unit="words", minimum=0.0))
