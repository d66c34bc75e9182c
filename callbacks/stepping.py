"""Optimiser steps, as a callback counts them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class OptimizerStepCallback(Callback):
    """Does something after optimiser steps; Lightning's own hook comes after every micro-batch."""

    # Optimiser steps that were looked at; a step's last micro-batch is where the trainer's count differs.
    _step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where training starts."""
        super().on_train_start(trainer, pl_module)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell whether the optimiser has stepped."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.after_optimizer_step(trainer, pl_module)

    @abstractmethod
    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once for each optimiser step, when `trainer.global_step` counts it."""
