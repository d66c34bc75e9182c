"""Small training runs on pairs of English sentences, through the real data module."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L

from lit_align.core.module import AlignmentModule
from lit_align.data.module import PreferenceDataModule

PAIRS = 14
"""Not a multiple of what an optimiser step takes."""
STEPS = 8
"""Optimiser steps of a run: two epochs of 7 micro-batches, two to a step."""


class Crash(L.Callback):
    """Ends a run after some optimiser steps, before anything more is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


class Losses(L.Callback):
    """Keeps the loss of every micro-batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, *args) -> None:
        self.values.append(module.last_step.loss.item())


def write_pairs(folder: Path) -> str:
    """Pairs of unequal lengths, as a file of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"Count to {n}.", "chosen": " " + "one " * (n % 5 + 1), "rejected": " " + "two " * (n % 3 + 1)}
        for n in range(PAIRS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def train(
    module: AlignmentModule, root: Path, callbacks: list[L.Callback], *, resume: str | None = None, **data: Any
) -> L.Trainer:
    """Train for two epochs, or until a `Crash`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    settings = {"batch_size": 2, "cache_dir": str(root / "cache")} | data
    pairs = PreferenceDataModule(write_pairs(root), **settings)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        default_root_dir=str(root),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    try:
        trainer.fit(module, pairs, ckpt_path=resume)
    except InterruptedError:
        return trainer
    assert trainer.global_step == STEPS
    return trainer
