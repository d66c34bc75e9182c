"""Which optimiser steps leave a row of metrics behind."""

from __future__ import annotations

from lightning.pytorch import Trainer


def is_logged(trainer: Trainer) -> bool:
    """Whether the optimiser step under way is logged: the first, the last, and every `log_every_n_steps`-th."""
    if trainer.log_every_n_steps == 0:
        return False
    # Unlike `global_step`, the same before and after the optimiser has stepped.
    step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
    ends = step in (1, trainer.estimated_stepping_batches)
    return ends or step % trainer.log_every_n_steps == 0 or bool(trainer.fast_dev_run)
