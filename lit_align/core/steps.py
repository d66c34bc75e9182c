"""Optimiser steps: a callback that counts them, and which of them leave a row of metrics behind."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def is_logged(trainer: Trainer) -> bool:
    """Whether the optimiser step under way is logged: the first, the last, and every `log_every_n_steps`-th."""
    if trainer.log_every_n_steps == 0:
        return False
    # Unlike `global_step`, the same before and after the optimiser has stepped.
    step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
    place, total = within_stretch(trainer, step)
    ends = place in (1, total)
    return ends or step % trainer.log_every_n_steps == 0 or bool(trainer.fast_dev_run)


def within_stretch(trainer: Trainer, step: int) -> tuple[int, float]:
    """Where an optimiser step stands in the stretch that a schedule spans, and how many steps that is.

    The stretch is the whole run, unless a callback has a `stretch` of its own (its first step and its length), as one
    that trains in rounds.
    """
    for callback in trainer.callbacks:
        stretch: tuple[int, float] | None = getattr(callback, "stretch", None)
        if stretch is not None:
            return step - stretch[0], stretch[1]
    return step, trainer.estimated_stepping_batches


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
