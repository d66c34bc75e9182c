"""The command line, killed with SIGKILL and given again with `--ckpt_path last`, ends as if it had not been killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind
from lit_align.core.capabilities import Capability
from tests.cases import CASES
from tests.rows import CONVERT, write_files

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = {
    "inside the accumulation window": ("batch", 9),
    "before a backward pass": ("forward", 14),
    "during validation": ("validation", 3),
    "while a checkpoint is written": ("saving", 2),
    "before the first checkpoint": ("batch", 2),
}
TRAINING = {case.name: case.training for case in CASES}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[DataKind, str]:
    """Twenty-two rows of each kind: neither the epoch nor the last window comes out even."""
    return write_files(tmp_path_factory.mktemp("data"), 22)


def command(
    method: str, model: str, files: dict[DataKind, str], folder: Path, callbacks: list[dict[str, Any]]
) -> list[str]:
    """Two epochs with dropout, accumulation over two micro-batches, and a validation inside the epoch."""
    cls = getattr(lit_align, method)
    file = files.get(cls.data_kind, files[DataKind.PAIRS])
    if Capability.REFERENCE_REFRESH in cls.requires:
        callbacks = [*callbacks, *REFRESH]
    if Capability.ADAPTERS in cls.requires:
        callbacks = [*callbacks, *LORA]
    config = {
        "model": {"class_path": method, "init_args": {
            "policy": model, "dropout": True, "learning_rate": 1e-3, **TRAINING[method],
        }},
        "data": {
            "train": file, "validation": file, "batch_size": 2, "convert": CONVERT.get(cls.data_kind),
            "cache_dir": str(folder.parent / "cache"),
        },
        "trainer": {
            "accelerator": "cpu", "max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 5,
            "log_every_n_steps": 1, "default_root_dir": str(folder), "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "ExactResume"},
                {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 2}},
                *callbacks,
            ],
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "lit_align", "fit", "--config", str(path)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command from the checkout, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        arguments, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False
    )


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights of the last checkpoint, and the lines of everything that was logged: metrics, alarms, timed steps."""
    newest = max((folder / "checkpoints").glob("step=*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    lines = [line for name in ("metrics", "alarms") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    lines += [line.partition(",")[0] for line in (folder / "timing.jsonl").read_text().splitlines()]
    return torch.load(newest, weights_only=True)["state_dict"], lines


LAST = ("--ckpt_path", "last")


def check(
    method: str,
    moment: str,
    model: str,
    file: dict[DataKind, str],
    folder: Path,
    callbacks: list[dict[str, Any]],
    first: tuple[str, ...] = LAST,
) -> None:
    """Run once through, run once killed and resumed, and compare bit for bit; `first` ends the killed command."""
    through = run(command(method, model, file, folder / "through", callbacks))
    assert through.returncode == 0, through.stderr[-3000:]
    where, count = MOMENTS[moment]
    kill = {"class_path": "tests.kill.Kill", "init_args": {"moment": where, "count": count}}
    killed = command(method, model, file, folder / "killed", [*callbacks, kill])
    assert run([*killed, *first]).returncode == -signal.SIGKILL
    again = run([*killed, *LAST])
    assert again.returncode == 0, again.stderr[-3000:]
    expected, logged = outcome(folder / "through")
    weights, log = outcome(folder / "killed")
    assert weights.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(weights[name], expected[name])]
    assert not different
    assert log == logged


def test_dpo_killed_inside_an_accumulation_window(tiny_model_dir, files, tmp_path):
    check("DPO", "inside the accumulation window", tiny_model_dir, files, tmp_path, [])


LORA = [{"class_path": "LoRA", "init_args": {"r": 4, "dropout": 0.1}}]
QLORA = [{"class_path": "QLoRA", "init_args": {"r": 4, "dropout": 0.1}}]
REFRESH = [{"class_path": "ReferenceSync", "init_args": {"alpha": 0.6, "every_n_steps": 3}}]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment(moment, tiny_model_dir, files, tmp_path):
    check("DPO", moment, tiny_model_dir, files, tmp_path, REFRESH)


@pytest.mark.slow
def test_before_the_first_checkpoint_where_another_run_has_finished(tiny_model_dir, files, tmp_path):
    older = command("DPO", tiny_model_dir, files, tmp_path / "killed", [])
    finished = run([*older, "--model.learning_rate", "1e-2", "--trainer.max_epochs", "3"])
    assert finished.returncode == 0, finished.stderr[-3000:]
    check("DPO", "before the first checkpoint", tiny_model_dir, files, tmp_path, [], first=())
    assert list((tmp_path / "killed" / "checkpoints.old").glob("step=*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "callbacks"),
    [
        *(pytest.param(case.name, [], id=case.name) for case in CASES),
        pytest.param("DPO", LORA, id="DPO-LoRA"),
        pytest.param("DPO", QLORA, id="DPO-QLoRA"),
        pytest.param("DPO", [*LORA, *REFRESH], id="DPO-LoRA-refreshed"),
        pytest.param("KTO", REFRESH, id="KTO-refreshed"),
    ],
)
def test_every_method(method, callbacks, tiny_model_dir, files, tmp_path):
    check(method, "inside the accumulation window", tiny_model_dir, files, tmp_path, callbacks)
