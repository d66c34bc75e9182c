"""Every configuration of a method runs as it is, with a model and data of one's own in place of those on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import lit_align
from lit_align.__main__ import main
from lit_align.core.batch import DataKind
from tests.rows import CONVERT, write_files

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[DataKind, str]:
    """A few rows of each kind."""
    return write_files(tmp_path_factory.mktemp("data"), 12)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_three_steps(config, files, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    kind = getattr(lit_align, settings["model"]["class_path"]).data_kind
    file = files.get(kind, files[DataKind.PAIRS])
    arguments = ["fit", "--config", str(config), "--model.policy", tiny_model_dir, "--data.train", file]
    if kind in CONVERT:
        arguments += ["--data.convert", CONVERT[kind]]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    steps = ["--data.batch_size", "2", "--trainer.accumulate_grad_batches", "1", "--trainer.max_steps", "3"]
    assert main([*arguments, *steps, *quiet]) == 0
    run = tmp_path / settings["trainer"]["default_root_dir"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 3]
    assert all(row["grad_norm"] > 0 for row in rows if "loss" in row)
    assert (run / "checkpoints" / "step=3.ckpt").exists()
