"""What a training run says of itself in a terminal: how far it is, and how large the model is."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ModelSummary, RichProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count


class EpochBar(RichProgressBar):
    """Lightning's progress bar, which counts epochs from 1 and names their number only where there is one."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches of this epoch; where `max_steps` ends the run, Lightning takes its steps for them."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return trainer.num_training_batches
        steps = trainer.max_steps - trainer.global_step
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return min(trainer.num_training_batches, done + steps * trainer.accumulate_grad_batches)

    def _get_train_description(self, current_epoch: int) -> str:
        """`Epoch 1/3`; `Epoch 1` where steps or hours end the run. Lightning writes 0/2 and 0/-2."""
        epochs = self.trainer.max_epochs
        limited = epochs is not None and epochs > 0
        text = f"Epoch {current_epoch + 1}" + (f"/{epochs}" if limited else "")
        # The bars of a validation stand below: all begin in the same column.
        return text.ljust(len(self.validation_description))


class SizeSummary(ModelSummary):
    """One line about the parameters, in place of a table of modules, modes and operations."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *sizes: Any,
        **settings: Any,
    ) -> None:
        """Print the sizes of the parts, and how much of them is trained."""
        columns = dict(summary_data)
        parts = (f"{name} {size.strip()}" for name, size in zip(columns["Name"], columns["Params"], strict=True))
        trained = get_human_readable_count(trainable_parameters).strip()
        print(f"parameters: {', '.join(parts)}; {trained} of them trained", flush=True)
