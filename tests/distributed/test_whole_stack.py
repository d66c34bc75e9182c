"""Trainer, data module and default callbacks together: a run folder of two processes equals that of one."""

from __future__ import annotations

import json
import logging
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lit_align.data.module import PreferenceDataModule
from lit_align.methods.dpo import DPO
from lit_align.trainer import AlignTrainer
from tests.distributed.jobs import whole_weights
from tests.launch import launch
from tests.runs import write_pairs


def _trainer(root: Path, strategy: str, **options: Any) -> AlignTrainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("error", UserWarning)
    warnings.filterwarnings("ignore", ".*(LeafSpec|eval mode|does not have many workers|estimate).*")
    L.seed_everything(3, verbose=False)
    return AlignTrainer(
        default_root_dir=str(root),
        strategy=strategy,
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        max_epochs=2,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _method(model: str) -> DPO:
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return DPO(policy=model, optimizer=optimizer, warmup_ratio=0.0, schedule="constant")


def _data(root: Path, **options: Any) -> PreferenceDataModule:
    return PreferenceDataModule(bucket=False, max_length=64, cache_dir=str(root / "cache"), **options)


def _fit_and_score(root: Path, model: str, pairs: str, strategy: str, rows: int) -> tuple[dict[str, Tensor], Any]:
    module = _method(model)
    _trainer(root, strategy).fit(module, _data(root, train=pairs, val_split=4, batch_size=rows))
    weights = whole_weights(module)
    scorer = _trainer(root, strategy, enable_checkpointing=True)
    scored = scorer.score(_method(model), _data(root, predict=pairs, batch_size=rows), ckpt_path="last")
    return weights, scored


def _metrics(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_run_folder_of_two_processes(strategy, tiny_model_dir, tmp_path):
    pairs = write_pairs(tmp_path / "data")
    one, two = tmp_path / "one", tmp_path / "two"
    ((weights, scores),) = launch(_fit_and_score, one, tiny_model_dir, pairs, "auto", 4, world=1)
    (weights_two, scores_two), _ = launch(_fit_and_score, two, tiny_model_dir, pairs, strategy, 2)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_two[name], weight, rtol=0, atol=1e-5, msg=name)
    records = _metrics(one)
    assert any("val/loss" in record for record in records)
    assert _metrics(two) == [pytest.approx(record, rel=1e-5, abs=1e-5, nan_ok=True) for record in records]
    # Every response once, whatever rank has scored it.
    places = [(record["row"], record["role"]) for record in scores]
    assert places == [(row, role) for row in range(1, len(scores) // 2 + 1) for role in ("chosen", "rejected")]
    for record, other in zip(scores, scores_two, strict=True):
        numbers = {name: value for name, value in record.items() if isinstance(value, float)}
        assert other == record | {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in numbers.items()}
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
