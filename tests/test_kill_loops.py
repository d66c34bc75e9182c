"""A loop on the command line, killed with SIGKILL wherever it may be, ends as if it had not been killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.loops.loop_runs import left, write_demonstrations

ROOT = Path(__file__).resolve().parents[1]


def _config(folder: Path, model: str, seed_file: str, *callbacks: dict) -> str:
    loop = {
        "rounds": 3, "max_new_tokens": 8, "batch_size": 4, "part_size": 4, "keep_unfinished": True,
        "stop_on_alarm": False,
    }  # fmt: skip
    config = {
        "seed_everything": 5,
        "model": {"class_path": "DPO", "init_args": {
            "policy": model, "beta": 0.5, "learning_rate": 1e-3, "dropout": True,
        }},
        "data": {"train": seed_file, "batch_size": 4, "max_length": 96, "cache_dir": str(folder.parent / "cache")},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "default_root_dir": str(folder),
            "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [
                {"class_path": "ExactResume"},
                {"class_path": "SPIN", "init_args": loop},
                {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 2}},
                *callbacks,
            ],
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(config))
    return str(path)


def _run(config: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lit_align", "fit", "--config", config, "--ckpt_path", "last"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    return torch.load(newest, weights_only=True)["state_dict"]


def _check(kills: int, seed: int, most: int, model: str, folder: Path) -> None:
    seed_file = write_demonstrations(folder)
    through = _run(_config(folder / "through", model, seed_file))
    assert through.returncode == 0, through.stderr[-3000:]
    again = {"class_path": "tests.kill_rounds.KillAgain", "init_args": {"kills": kills, "seed": seed, "most": most}}
    killed = _config(folder / "killed", model, seed_file, again)
    for _ in range(kills):
        ended = _run(killed)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
    else:
        last = _run(killed)
        assert last.returncode == 0, last.stderr[-3000:]
    assert int((folder / "killed" / "kills").read_text()) >= min(kills, 2)
    assert left(folder / "killed") == left(folder / "through")
    expected, weights = _weights(folder / "through"), _weights(folder / "killed")
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def test_a_loop_killed_twice(tiny_model_dir, tmp_path):
    _check(2, 1, 60, tiny_model_dir, tmp_path)


@pytest.mark.slow
def test_a_loop_killed_thirty_times(tiny_model_dir, tmp_path):
    _check(30, 2, 14, tiny_model_dir, tmp_path)
    assert int((tmp_path / "killed" / "kills").read_text()) == 30
