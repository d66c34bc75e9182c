"""Loops whose judge is the policy itself, in two processes: the scores of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lit_align.callbacks import DICE, SelfRewarding
from tests.helpers import save_tiny_model
from tests.launch import launch
from tests.loops.loop_runs import dpo, rows, run_loop
from tests.runs import write_pairs

SETTINGS = {"rounds": 2, "samples": 3, "max_new_tokens": 6, "batch_size": 6, "part_size": 3, "temperature": 1.0}
ALSO = {"keep_unfinished": True, "gate_accuracy": 0.0, "stop_on_alarm": False}
JUDGE = {"template": "{prompt} {response}", "as_chat": False}


def _loop(folder: Path, model: str, pairs: str, before: str, strategy: str, batch_size: int) -> None:
    """Two rounds of either loop."""
    callbacks: dict[str, Any] = {
        "dice": DICE(before, least_valid=2, min_chars=1, **SETTINGS, **ALSO),
        "self_rewarding": SelfRewarding(JUDGE, **SETTINGS, **ALSO),
    }
    for name, callback in callbacks.items():
        run_loop(
            folder / name,
            dpo(model),
            pairs,
            callback,
            strategy=strategy,
            devices=int(os.environ["WORLD_SIZE"]),
            data={"batch_size": batch_size, "validation": pairs},
        )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_judge_as_one(strategy, tiny_model_dir, tmp_path):
    pairs, before = write_pairs(tmp_path), save_tiny_model(tmp_path / "before", seed=9)
    one, two = tmp_path / "one", tmp_path / "two"
    launch(_loop, one, tiny_model_dir, pairs, before, "auto", 4, world=1)
    launch(_loop, two, tiny_model_dir, pairs, before, strategy, 2)
    for name in ("dice", "self_rewarding"):
        for number in (1, 2):
            for step in ("human_scores", "scores"):
                alone, shared = rows(one / name, number, step), rows(two / name, number, step)
                assert [(row["id"], row["sample"]) for row in shared] == [(row["id"], row["sample"]) for row in alone]
                # Sums over two processes are rounded otherwise, and the second round's weights with them.
                expected = [row["score"] for row in alone]
                assert [row["score"] for row in shared] == pytest.approx(expected, abs=1e-3), (name, number, step)
            assert rows(two / name, number, "candidates") == rows(one / name, number, "candidates")
