"""What a run costs: seconds of training and the peak of memory."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

FILE = "footprint.json"


class Footprint(Callback):
    """Writes `<default_root_dir>/footprint.json` when training has come to its end; a run without the file has not.

    - `steps`: optimiser steps.
    - `seconds`: of training, without validation and without what comes before the first batch. Of a run that was killed
      and resumed, the parts that led up to its end: what was computed behind a checkpoint, and lost, is not counted.
    - `peak_bytes`, and in `memory` what they are of: `GPU`, the most that tensors ever took on it at once; `process`,
      the largest resident set, libraries included. Of several processes, that of the first.
    - `device`: the GPU's name, or `CPU`.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._peak = 0
        self._device = torch.device("cpu")
        # When the stretch that is being counted began.
        self._since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a run that has not come to its end."""
        self._device = trainer.strategy.root_device
        if trainer.global_step == 0:
            # This object may have measured another run before.
            self._seconds, self._peak = 0.0, 0
        self._since = time.perf_counter()
        if trainer.is_global_zero:
            self._path(trainer).unlink(missing_ok=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; also where a resumed run had no step left to take."""
        if not trainer.is_global_zero:
            return
        device = self._device = trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        found = {
            "steps": trainer.global_step,
            "seconds": round(self._seconds, 3),
            "peak_bytes": self._memory(),
            "memory": "GPU" if on_gpu else "process",
            "device": torch.cuda.get_device_name(device) if on_gpu else device.type.upper(),
        }
        path = self._path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(found) + "\n", encoding="utf-8")
        os.replace(draft, path)

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return {"seconds": self._seconds + running, "peak_bytes": self._memory()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._seconds, self._peak = state_dict["seconds"], state_dict["peak_bytes"]

    def _stop(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def _memory(self) -> int:
        """The peak of this process and of those that the run went on from, bytes."""
        on_gpu = self._device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self._device) if on_gpu else largest_resident_set()
        self._peak = max(self._peak, now)
        return self._peak

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / FILE


def largest_resident_set() -> int:
    """The most memory that this process has held at once, bytes."""
    # What `getrusage` says on Linux includes the process that started this one.
    if (known := _status("VmHWM")) is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_set() -> int:
    """The memory that this process holds, bytes; where the system does not tell, the most that it has held."""
    known = _status("VmRSS")
    return largest_resident_set() if known is None else known


def _status(name: str) -> int | None:
    """An entry of Linux's account of this process, bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
