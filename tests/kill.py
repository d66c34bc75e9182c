"""A callback that kills its own process with SIGKILL, at a moment that the configuration names."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

import lit_align.core.checkpoint_io as checkpoint_io


class Kill(Callback):
    """Kills the process once; a file in the run folder says that it has.

    Args:
        moment: forward: inside training_step, before the backward pass; batch: after a micro-batch; validation: between
            two batches of it; saving: when a checkpoint is written but not yet named.
        count: at which occurrence.
    """

    def __init__(self, moment: Literal["forward", "batch", "validation", "saving"], count: int) -> None:
        self.moment = moment
        self.left = count

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.done = Path(trainer.default_root_dir) / "killed"
        self.done.parent.mkdir(parents=True, exist_ok=True)
        if self.moment == "saving":
            publish = checkpoint_io.publish

            def killing(partial: Path, final: Path) -> None:
                self.hit()
                publish(partial, final)

            checkpoint_io.publish = killing

    def hit(self) -> None:
        if self.done.exists():
            return
        self.left -= 1
        if self.left == 0:
            self.done.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_backward(self, *_: Any) -> None:
        if self.moment == "forward":
            self.hit()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.moment == "batch":
            self.hit()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.moment == "validation" and not trainer.sanity_checking:
            self.hit()
