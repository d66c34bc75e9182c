"""How fast a run goes and what memory it takes, step by step, in a file of its own: no two runs have the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_align.callbacks.footprint import resident_set
from lit_align.core.steps import OptimizerStepCallback, is_logged
from lit_align.evaluation.environment import now
from lit_align.evaluation.jsonl_file import JsonlFile

FILE = "timing.jsonl"


class Timing(OptimizerStepCallback):
    """Writes a line to `<default_root_dir>/timing.jsonl` for every step that metrics.jsonl has a line for.

    - `step`, `time` (UTC).
    - `seconds_per_step`, `tokens_per_second`: means since the line before, by the clock on the wall: without
      validation, with everything else, such as reading data, writing checkpoints and completions. Tokens are those of
      all processes.
    - `process_bytes`: what this process holds, libraries included; `gpu_peak_bytes`: the most that tensors have taken
      on its GPU since training started. Of several processes, those of the first.

    A run that is resumed goes on in the file, in place of the lines behind its checkpoint.
    """

    def __init__(self) -> None:
        self._file: JsonlFile | None = None
        self._since = 0.0
        self._since_step = 0
        self._since_tokens: float | None = None
        # When a validation began, whose time does not count.
        self._paused: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the file, and start the clock."""
        super().on_train_start(trainer, pl_module)
        self._file, self._paused = None, None
        # Of several processes, the first begins with the tokens of all.
        self._start(trainer.global_step, getattr(pl_module, "num_tokens", None))
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        self._file = JsonlFile(Path(trainer.default_root_dir) / FILE)
        if trainer.global_step == 0:
            self._file.start_over()
        else:
            self._file.keep(lambda record: record.get("step", 0) <= trainer.global_step)

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line, if the step is logged."""
        if self._file is None or not is_logged(trainer):
            return
        seconds, steps = time.perf_counter() - self._since, trainer.global_step - self._since_step
        step = getattr(pl_module, "last_step", None)
        tokens = None if step is None else step.metrics.get("num_tokens")
        record: dict[str, Any] = {"step": trainer.global_step, "time": now(), "seconds_per_step": seconds / steps}
        if tokens is not None and self._since_tokens is not None and seconds > 0:
            record["tokens_per_second"] = (tokens - self._since_tokens) / seconds
        record["process_bytes"] = resident_set()
        device = trainer.strategy.root_device
        if device.type == "cuda":
            record["gpu_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        self._file.append(record)
        self._start(trainer.global_step, tokens)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it go on."""
        if self._paused is not None:
            self._since += time.perf_counter() - self._paused
            self._paused = None

    def _start(self, step: int, tokens: float | None) -> None:
        self._since, self._since_step, self._since_tokens = time.perf_counter(), step, tokens
