"""ROPO's filter: training rows that look mislabelled are left out of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_align.core.errors import ConfigError
from lit_align.core.metrics import Meter
from lit_align.core.ranges import positive, share
from lit_align.core.side_pass import in_order, shares
from lit_align.data.collate import Drawn
from lit_align.data.lookup import training_data
from lit_align.evaluation.jsonl_file import JsonlFile, Mark
from lit_align.functional.selection import number_kept

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule
    from lit_align.data.module import PreferenceDataModule


class NoiseFilter(Callback):
    """Leaves out, from the second epoch on, the training rows of largest loss.

    Liang et al., "ROPO: Robust Preference Optimization for Large Language Models" (2024),
    https://arxiv.org/abs/2404.04102: training and choosing rows take turns. At the start of an epoch all training rows
    are scored by the policy as it is, without dropout; the floor((1 - drop) * N) rows with the smallest losses are
    kept (of equal ones those that stand first), and weighted up for the others, so that the step size stays what it
    was. Rows that were left out are scored again the next time. They pass through the model with weight 0: a filtered
    epoch takes as long as any other.

    For methods that read `row_weights`, such as ROPO. Works on any number of processes, under accumulation, and a
    resumed run goes on with the rows that it had. The metric `noise_filter/dropped` is the number of rows left out;
    `<default_root_dir>/noise_filter.jsonl` names them (epoch, step, rows, kept, threshold, dropped).

    Example::

        trainer:
          max_epochs: 3
          callbacks:
            - class_path: lit_align.callbacks.NoiseFilter
              init_args: {drop: 0.2}

    Args:
        drop: share of the rows that is left out.
        every_n_epochs: epochs between two choices.

    Raises:
        ConfigError: a number is out of range, the method has no weights of rows, or the data cannot be looked up.
    """

    def __init__(self, drop: float = 0.2, every_n_epochs: int = 1) -> None:
        self.drop = share("drop", drop)
        self.every_n_epochs = int(positive("every_n_epochs", every_n_epochs))
        self.dropped: list[int] = []
        """Rows that are left out, 1-based."""
        self._weight = 1.0
        self._chosen_in: int | None = None
        self._mark: Mark | None = None
        self._file: JsonlFile | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse methods and data that cannot be filtered."""
        if not hasattr(pl_module, "row_weights"):
            raise ConfigError(
                "NoiseFilter needs a method whose losses have weights",
                got=f"{type(pl_module).__name__}, which has no `row_weights`",
                fix="use ROPO, or remove NoiseFilter",
            )
        training_data(trainer, "NoiseFilter")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the rows of the checkpoint, and bring the file to its state."""
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= self.every_n_epochs:
            rank_zero_warn(f"NoiseFilter will drop nothing: training ends after {trainer.max_epochs} epochs.")
        self._file = JsonlFile(Path(trainer.default_root_dir) / "noise_filter.jsonl")
        if self._mark is not None:
            if trainer.is_global_zero:
                self._file.cut(self._mark)
        elif trainer.global_step == 0:
            # This object may have filtered another run before.
            self.dropped, self._weight, self._chosen_in = [], 1.0, None
            if trainer.is_global_zero:
                self._file.start_over()
        self._mark = None
        if self._chosen_in is not None:
            self._apply(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the rows of the epoch, if that is due."""
        epoch = trainer.current_epoch
        if epoch == 0 or epoch % self.every_n_epochs or self._chosen_in == epoch:
            return
        data, module = training_data(trainer, "NoiseFilter"), cast("AlignmentModule", pl_module)
        rows, losses, pairs = by_row(row_losses(module, data))
        order = losses.sort(stable=True).indices
        kept = order[: number_kept(len(order), self.drop)]
        self.dropped = rows[order[len(kept) :]].sort().values.tolist()
        self._weight = float(pairs.sum() / pairs[kept].sum())
        self._chosen_in = epoch
        self._apply(trainer, pl_module)
        rank_zero_info(f"NoiseFilter: epoch {epoch} leaves out {len(self.dropped)} of {len(rows)} rows.")
        if trainer.is_global_zero:
            assert self._file is not None
            self._file.append(
                {
                    "epoch": epoch,
                    "step": trainer.global_step,
                    "rows": len(rows),
                    "kept": len(kept),
                    "threshold": losses[kept[-1]].item(),
                    "dropped": [data.where(row) for row in self.dropped],
                }
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log how many rows are left out; at every step, so that a resumed run logs the same."""
        pl_module.log("noise_filter/dropped", float(len(self.dropped)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the method as it was."""
        if stage == "fit" and hasattr(pl_module, "row_weights"):
            vars(pl_module).pop("row_weights", None)

    def state_dict(self) -> dict[str, Any]:
        """The rows that are left out, since when, and where the file ends."""
        return {
            "dropped": self.dropped,
            "weight": self._weight,
            "chosen_in": self._chosen_in,
            "file": None if self._file is None else self._file.mark(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.dropped, self._weight = state_dict["dropped"], state_dict["weight"]
        self._chosen_in, self._mark = state_dict["chosen_in"], state_dict["file"]

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        store = training_data(trainer, "NoiseFilter").examples("train")
        highest = max(store[index].row for index in range(len(store)))
        weights = torch.full((highest + 1,), self._weight, dtype=torch.float64)
        weights[self.dropped] = 0.0
        vars(pl_module)["row_weights"] = weights.to(pl_module.device)


def row_losses(module: AlignmentModule, data: PreferenceDataModule) -> Tensor:
    """Row and loss of every pair of the training data, [P, 2] on all ranks, which call this together.

    Args:
        module: the method, inside a run; its metrics stay as they are.
        data: the data module.
    """
    store, collate = data.examples("train"), data._collator("train")

    def make(indices: list[int]) -> Any:
        return collate(Drawn([store[index] for index in indices]))

    parts = [torch.zeros(0, 2, dtype=torch.float64, device=module.device)]
    # Metrics of these rows are nobody's.
    meter, module.meter = module.meter, Meter()
    try:
        for batch, indices in shares(module, len(store), make, data.batch_size):
            losses = torch.stack([term.values for term in module.terms(batch).values()]).sum(0)
            if indices:
                parts.append(torch.stack([batch.source_rows.double(), losses.double()], 1))
    finally:
        module.meter = meter
    return in_order(parts)


def by_row(pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Different rows in ascending order, the mean loss of each one's pairs, and how many it has.

    Args:
        pairs: [P, 2], row and loss.

    Returns:
        [N] int64, [N] float64, [N] int64.
    """
    rows, places, counts = pairs[:, 0].long().unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(rows), dtype=pairs.dtype, device=pairs.device).index_add(0, places, pairs[:, 1])
    return rows, sums / counts, counts
