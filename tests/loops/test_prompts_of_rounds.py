"""Which prompts a round takes: each of the seed's once before any is taken again, whatever rounds took before."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest

from lit_align.callbacks import SPIN
from lit_align.loops.live import LiveRound, Means
from lit_align.loops.store import RoundFolder
from lit_align.loops.writer import Sampling
from tests.loops.loop_runs import dpo, rows, run_loop, write_demonstrations

NAMES = [str(number) for number in range(1, 11)]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def take(run, *wanted: int | None) -> list[list[str]]:
    """What rounds take, one after another, by the number that each asks for."""
    taken = []
    for number, count in enumerate(wanted, start=1):
        writer: Any = SimpleNamespace(can_ask=lambda rows, _: rows)
        means = Means(lambda: [{"id": name} for name in NAMES], writer, Sampling(), 3, count)
        taken.append([row["id"] for row in LiveRound(RoundFolder.of(run, number), "inputs", means).prompts()])
    return taken


def turns(taken: list[list[str]]) -> list[list[str]]:
    """Prompts in the order in which they were taken, ten at a time."""
    flat = [name.partition("'")[0] for names in taken for name in names]
    return [sorted(flat[start : start + 10], key=int) for start in range(0, len(flat), 10)]


@pytest.mark.parametrize("wanted", [(4, 4, 4, 4, 4), (4, 3, 3), (2, 5, 1, 2, 7, 3), (3, 7, 10), (8, 12), (1, 25, 4)])
def test_each_is_taken_once_before_any_is_taken_again(wanted, tmp_path):
    taken = take(tmp_path, *wanted)
    assert [len(names) for names in taken] == list(wanted)
    assert turns(taken) == [NAMES] * (sum(wanted) // 10)
    assert all(len(set(names)) == len(names) for names in taken)


def test_rounds_of_equal_number_take_what_they_always_took(tmp_path):
    # Recorded before rounds could differ in how many they take.
    recorded = [["4", "7", "9", "2"], ["3", "6", "5", "8"], ["10", "1", "8'1", "3'1"]]
    assert take(tmp_path, 4, 4, 4) == recorded


def test_a_round_of_all_puts_none_behind(tmp_path):
    first, every, third, fourth = take(tmp_path, 4, None, 6, 3)
    assert every == NAMES
    assert sorted(name.partition("'")[0] for name in first + third) == sorted(NAMES)
    assert len({name.partition("'")[0] for name in fourth}) == 3


def test_prompts_that_somebody_has_removed_do_not_come_back_at_once(tmp_path):
    ((first, *others),) = take(tmp_path, 4)
    folder = RoundFolder.of(tmp_path, 1)
    folder.write("prompts", [{"id": name} for name in others], folder.steps["prompts"]["made_of"], {})
    assert sorted([first, *others, *take(tmp_path, 4, 6)[1]], key=int) == NAMES


def test_a_round_that_is_made_again_begins_where_it_began(tmp_path):
    """Also with another number, and where the rounds before it are there no more."""
    taken = take(tmp_path, 3, 3, 3)
    shutil.rmtree(RoundFolder.of(tmp_path, 1).path)
    shutil.rmtree(RoundFolder.of(tmp_path, 2).path)
    RoundFolder.of(tmp_path, 3).set_aside(["prompts"])
    writer: Any = SimpleNamespace(can_ask=lambda rows, _: rows)
    means = Means(lambda: [{"id": name} for name in NAMES], writer, Sampling(), 3, 4)
    names = [row["id"] for row in LiveRound(RoundFolder.of(tmp_path, 3), "inputs", means).prompts()]
    assert names[:3] == taken[2]
    assert sorted([*taken[0], *taken[1], *names], key=int) == NAMES


def test_a_run_that_goes_on_with_another_number_neither_repeats_nor_skips(tiny_model_dir, tmp_path):
    seed_file = write_demonstrations(tmp_path)
    loop = {"max_new_tokens": 8, "keep_unfinished": True, "stop_on_alarm": False}
    run = tmp_path / "run"
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(rounds=2, prompts_per_round=2, **loop))
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(rounds=3, prompts_per_round=6, **loop), ckpt_path="last")
    asked = [[row["id"] for row in rows(run, number, "prompts")] for number in (1, 2, 3)]
    assert [len(names) for names in asked] == [2, 2, 6]
    assert sorted((name for names in asked for name in names), key=int) == NAMES


def test_prompts_that_are_too_long_are_dropped_where_the_data_say_so(tiny_model_dir, tmp_path):
    seed = tmp_path / "seed.jsonl"
    lines = [{"prompt": "Name it. " * (40 if number == 2 else 1), "completion": " red"} for number in range(4)]
    seed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loop = {"rounds": 1, "max_new_tokens": 8, "part_size": 4, "keep_unfinished": True, "stop_on_alarm": False}
    # Both cut texts of the seed to 64 tokens, and prompts to what 8 new ones leave.
    run_loop(tmp_path / "drop", dpo(tiny_model_dir), str(seed), SPIN(**loop), data={"max_length": 64} | DROP)
    assert len(rows(tmp_path / "drop", 1, "prompts")) == 3
    run_loop(tmp_path / "cut", dpo(tiny_model_dir), str(seed), SPIN(**loop), data={"max_length": 64})
    assert len(rows(tmp_path / "cut", 1, "prompts")) == 4


DROP = {"on_overlong": "drop"}
