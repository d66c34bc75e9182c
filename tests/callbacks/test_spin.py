"""SPIN's rounds: the right rows, the right references, the same whatever interrupts them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from lit_align.callbacks import SPIN
from lit_align.core.errors import ConfigError, DataError
from lit_align.methods.sft import SFT
from tests.loops.loop_runs import Killed, Operations, dpo, left, rows, run_loop, weights, write_demonstrations

LOOP = {"rounds": 3, "max_new_tokens": 12, "batch_size": 4, "part_size": 4, "stop_on_alarm": False}
"""The tiny model is random: its answers are rarely finished, and never good."""


def spin(**settings) -> SPIN:
    return SPIN(**(LOOP | {"keep_unfinished": True} | settings))


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_demonstrations(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def through(tiny_model_dir, seed_file, tmp_path_factory):
    """A run of three rounds, and how many operations it took."""
    folder = tmp_path_factory.mktemp("through")
    with Operations() as operations:
        module = run_loop(folder, dpo(tiny_model_dir), seed_file, spin(), operations)
    return folder, weights(module), operations.count


def test_pairs_are_the_persons_answer_and_the_policys(through, seed_file):
    folder, _, _ = through
    demonstrations = [json.loads(line) for line in Path(seed_file).read_text().splitlines()]
    for number in (1, 2, 3):
        own = {row["id"]: row["completion"] for row in rows(folder, number, "candidates")}
        pairs = rows(folder, number, "pairs")
        assert pairs
        for pair in pairs:
            place = int(pair["id"].split("/")[1])
            assert pair["prompt"] == demonstrations[place - 1]["prompt"]
            assert pair["chosen"] == demonstrations[place - 1]["completion"]
            assert pair["rejected"] == own[str(place)] != pair["chosen"]


def test_a_round_learns_from_its_own_pairs_and_those_before(through):
    folder, _, _ = through
    assert {row["round"] for row in rows(folder, 1, "train")} == {1}
    assert {row["round"] for row in rows(folder, 2, "train")} == {1, 2}
    assert {row["round"] for row in rows(folder, 3, "train")} == {2, 3}


def test_every_round_begins_with_a_reference_that_is_the_policy(through):
    folder, _, _ = through
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    steps = [record for record in records if "loss" in record]
    firsts = [next(record for record in steps if record["epoch"] == epoch) for epoch in range(3)]
    assert [record["loss"] for record in firsts] == [pytest.approx(math.log(2), abs=1e-5)] * 3
    # The rounds were learnt from.
    assert all(record["loss"] != pytest.approx(math.log(2), abs=1e-5) for record in steps if record not in firsts)
    assert [record["rounds/round"] for record in records if "rounds/round" in record] == [1, 2, 3]


def _check_interrupted(through, model, seed_file, folder, places):
    """Ended at each of some operations, one run after another, it ends as if it had not been."""
    expected, its_weights, _ = through
    resumed = None
    for place in places:
        with Operations(place) as operations, pytest.raises(Killed):
            run_loop(folder, dpo(model), seed_file, spin(), operations, ckpt_path=resumed)
        resumed = "last"
    module = run_loop(folder, dpo(model), seed_file, spin(), ckpt_path="last")
    assert left(folder) == left(expected)
    got = weights(module)
    assert all(torch.equal(got[name], value) for name, value in its_weights.items())


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_ended_anywhere_it_goes_on_as_if_nothing_had_happened(share, through, tiny_model_dir, seed_file, tmp_path):
    _check_interrupted(through, tiny_model_dir, seed_file, tmp_path, [max(1, int(share * through[2]))])


def test_ended_again_and_again(through, tiny_model_dir, seed_file, tmp_path):
    _check_interrupted(through, tiny_model_dir, seed_file, tmp_path, [12, 9, 21, 5])


@pytest.mark.slow
def test_ended_at_every_operation(through, tiny_model_dir, seed_file, tmp_path):
    for place in range(1, through[2] + 1):
        _check_interrupted(through, tiny_model_dir, seed_file, tmp_path / str(place), [place])


def test_a_changed_file_is_neither_trained_on_nor_overwritten(tiny_model_dir, seed_file, tmp_path):
    with Operations(38) as operations, pytest.raises(Killed):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, spin(), operations)
    path = tmp_path / "rounds" / "round_1" / "train.jsonl"
    path.write_text(path.read_text().replace("Name", "Tell"))
    before = path.read_bytes()
    with pytest.raises(DataError, match="round 1 was changed after it was made") as error:
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, spin(), ckpt_path="last")
    assert "--accept 1" in str(error.value)
    assert path.read_bytes() == before


def test_other_settings_make_other_rounds_and_keep_the_old_ones(through, tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, spin(rounds=1))
    first = rows(tmp_path, 1, "candidates")
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, spin(rounds=1, temperature=0.5))
    assert rows(tmp_path, 1, "candidates") != first
    assert list((tmp_path / "rounds" / "round_1" / "stale").glob("candidates-*.jsonl"))


def test_methods_that_learn_from_something_else_are_refused(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match="SPIN makes pairs"):
        run_loop(tmp_path, SFT(policy=tiny_model_dir), seed_file, spin())


def test_unfinished_answers_are_left_out_and_a_round_of_nothing_says_why(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(DataError, match="round 1: every answer") as error:
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, spin(keep_unfinished=False, max_new_tokens=1))
    assert "answer that did not come to its end" in str(error.value)
