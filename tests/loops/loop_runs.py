"""Small runs of loops, through the real trainer and data module, and what they leave."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_align.callbacks import RunCheckpoint
from lit_align.core.module import AlignmentModule
from lit_align.data.module import PreferenceDataModule
from lit_align.loops.store import RoundFolder
from lit_align.methods.dpo import DPO
from lit_align.trainer import AlignTrainer

WORDS = ("red", "blue", "green", "small", "large", "old")


def write_demonstrations(folder: Path, rows: int = 10) -> str:
    """Demonstrations of unequal lengths, their prompts too, as a file of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demonstrations.jsonl"
    lines = [
        {
            "prompt": f"Name {n}{'.' * (1 + n * 7 % 4)}",
            "completion": " " + " ".join(WORDS[(n + k) % 6] for k in range(n % 4 + 1)),
        }
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return str(path)


def dpo(model: str, **settings: Any) -> DPO:
    """A method to train."""
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return DPO(**({"policy": model, "beta": 0.5, "optimizer": optimizer, "warmup_ratio": 0.0} | settings))


def run_loop(
    folder: Path,
    module: AlignmentModule,
    train: str,
    *callbacks: L.Callback,
    ckpt_path: str | None = None,
    data: dict[str, Any] | None = None,
    save_every: int = 2,
    **trainer: Any,
) -> AlignmentModule:
    """Train with a loop among the callbacks, and a checkpoint every `save_every` steps."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    L.seed_everything(5, verbose=False)
    settings = {"batch_size": 4, "max_length": 96, "cache_dir": str(folder / "cache"), "bucket": False} | (data or {})
    runner = AlignTrainer(
        default_root_dir=str(folder),
        **({"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1} | trainer),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, RunCheckpoint(every_n_steps=save_every)],
        logger=[],
    )
    runner.fit(module, PreferenceDataModule(train=train, **settings), ckpt_path=ckpt_path)
    return module


def rows(folder: Path, number: int, step: str) -> list[dict[str, Any]]:
    """What a step of a round left."""
    return RoundFolder.of(folder, number).rows(step)


def left(folder: Path) -> dict[str, str]:
    """Checksums of all rows of all rounds, and of what was logged."""
    files = [*(folder / "rounds").rglob("*.jsonl"), folder / "metrics.jsonl", folder / "alarms.jsonl"]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def weights(module: AlignmentModule) -> dict[str, Tensor]:
    """The policy's weights."""
    return {name: value.clone() for name, value in module.policy.state_dict().items()}


class Killed(BaseException):
    """Stands for SIGKILL, where no process is to be lost: nothing may catch it."""


class Operations(L.Callback):
    """Counts whatever a run does to the disk and to its weights, and ends it at one of these.

    Args:
        last: the operation at which the run ends; None: none.
        act: what ends it.
    """

    def __init__(self, last: int | None = None, act: Callable[[], None] | None = None) -> None:
        self.count, self.last = 0, last
        self.act = act or self._raise

    @staticmethod
    def _raise() -> None:
        raise Killed

    def hit(self) -> None:
        self.count += 1
        if self.count == self.last:
            self.act()

    def __enter__(self) -> Operations:
        self.replace = os.replace

        def replace(*args: Any, **kwargs: Any) -> None:
            self.hit()
            self.replace(*args, **kwargs)
            self.hit()

        os.replace = replace  # type: ignore[assignment]
        return self

    def __exit__(self, *_: Any) -> None:
        os.replace = self.replace

    def on_train_batch_end(self, *_: Any) -> None:
        self.hit()
