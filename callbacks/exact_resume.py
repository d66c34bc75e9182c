"""What Lightning leaves out of a checkpoint, so that a resumed run equals one that was never interrupted."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lit_align.core.errors import ConfigError
from lit_align.core.hyperparameters import savable
from lit_align.evaluation.jsonl_logger import JsonlLogger

_KEY = "exact_resume"
# Attributes of the data module on which the order and the content of the batches depend.
_BATCH_SETTINGS = (
    "batch_size", "max_tokens_per_batch", "bucket", "shuffle", "seed", "drop_last", "val_split", "split_seed",
)  # fmt: skip


class ExactResume(Callback):
    """Saves and restores random numbers, unfinished gradients and the length of the metrics file.

    - The state of Python's, NumPy's and PyTorch's random number generators on every rank is put back just before
      the first batch: restoring models and loaders draws numbers. List this callback first.
    - Gradients of an unfinished accumulation window, where a checkpoint is written inside one (`RunCheckpoint` never
      does). FSDP2 keeps them out of reach, unless it reduces them after every micro-batch; such a checkpoint is
      refused when training would resume from it.
    - `metrics.jsonl` and `alarms.jsonl` (see `JsonlLogger`) are cut back to what they held at the checkpoint.

    The position in the data is the data module's own state.

    A checkpoint on an epoch's last batch resumes with the next epoch. What would still have followed in the former one
    is over: a validation that a plain `ModelCheckpoint` did not wait for, as `RunCheckpoint` does.

    Args:
        allow_changes: go on although devices, accumulation or batches are others than in the run that wrote the
            checkpoint; it then continues, but not as it would have.
    """

    def __init__(self, allow_changes: bool = False) -> None:
        self.allow_changes = allow_changes
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of all ranks; as plain types and tensors, which load without running code."""
        inside_window = trainer.fit_loop._should_accumulate()
        within_reach = _gradients_within_reach(trainer, pl_module)
        checkpoint[_KEY] = {
            "complete": within_reach or not inside_window,
            "settings": _settings(trainer),
            "rng": _gather(trainer, _rng_state(pl_module.device)),
            "gradients": _gather(trainer, _gradients(pl_module)) if inside_window and within_reach else None,
            "metrics": [logger.file.mark() for logger in _files(trainer)],
            "metrics_due": _metrics_due(trainer),
            "alarms": [logger.alarms.mark() for logger in _files(trainer)],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the settings, and keep the state until training starts.

        Raises:
            ConfigError: settings on which the result depends have changed.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        saved = checkpoint.get(_KEY)
        if saved is None:
            rank_zero_warn("The checkpoint was written without ExactResume: training goes on, but not exactly.")
            return
        self._restored = dict(saved)
        if not saved["complete"] and not self.allow_changes:
            raise ConfigError(
                "the checkpoint was written inside an accumulation window, without the window's gradients",
                got=f"global step {checkpoint['global_step']}, sharded by FSDP2",
                fix="resume from a checkpoint of the RunCheckpoint callback, which lie between optimiser steps; or set "
                "allow_changes: true for ExactResume to lose a part of one step",
            )
        changes = _changes(saved["settings"], _settings(trainer))
        if changes and not self.allow_changes:
            raise ConfigError(
                "the run that wrote the checkpoint had other settings, so it cannot be continued exactly",
                got="; ".join(f"{name}: {then} then, {now} now" for name, (then, now) in changes.items()),
                fix="use the former values, or set allow_changes: true for ExactResume to go on inexactly",
            )
        if changes.keys() & {"world_size", "accumulate_grad_batches"}:
            # Neither generators nor gradients have an owner any more.
            self._restored |= {"rng": None, "gradients": None}
        loops = checkpoint["loops"]["fit_loop"]
        self._restored["epoch_is_over"] = _epoch_is_over(loops)
        if self._restored["epoch_is_over"]:
            _close_epoch(loops)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the metrics file to the state of the checkpoint, or begin a new one with a new run."""
        if self._restored is not None and self._restored["epoch_is_over"]:
            # With `max_steps`, Lightning takes every resumed run to be inside an epoch, and would run the rest of it.
            trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False
        if not trainer.is_global_zero:
            return
        for index, logger in enumerate(_files(trainer)):
            if self._restored is not None and index < len(self._restored["metrics"]):
                if not logger.file.cut(self._restored["metrics"][index]):
                    rank_zero_warn(f"{logger.file.path} begins anew: what was logged before the checkpoint is gone.")
                for record in self._restored["metrics_due"]:
                    logger.file.append(record)
            elif trainer.global_step == 0:
                logger.file.start_over()
            self._restore_alarms(trainer, logger, index)

    def _restore_alarms(self, trainer: Trainer, logger: JsonlLogger, index: int) -> None:
        """Bring the file of alarms to the state of the checkpoint; one from before there were alarms has none."""
        marks = [] if self._restored is None else self._restored.get("alarms", [])
        if index < len(marks):
            logger.alarms.cut(marks[index])
        elif trainer.global_step == 0:
            logger.alarms.start_over()
        logger.alarms.touch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put random numbers and gradients back before the first batch."""
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        if restored["gradients"] is not None:
            _put_gradients(pl_module, restored["gradients"][trainer.global_rank])
        if restored["rng"] is not None:
            _put_rng_state(restored["rng"][trainer.global_rank], pl_module.device)


# -------------------------------------------------------------------- settings


def _settings(trainer: Trainer) -> dict[str, Any]:
    """What must not change; plain values."""
    data, module = trainer.datamodule, trainer.lightning_module
    return {
        "world_size": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "method": type(module).__name__,
        **{f"model.{name}": value for name, value in savable(module.hparams).items() if not name.startswith("_")},
    } | {name: getattr(data, name) for name in _BATCH_SETTINGS if hasattr(data, name)}


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]}


# -------------------------------------------------------------------- progress


def _epoch_is_over(loops: Mapping[str, Any]) -> bool:
    """Whether the last batch of the epoch was trained on, and the next epoch has not begun."""
    epoch, batch = loops["epoch_progress"]["total"], loops["epoch_loop.batch_progress"]
    trained = batch["total"]["processed"] == batch["total"]["ready"]
    return batch["is_last_batch"] and trained and epoch["started"] == epoch["ready"]


def _close_epoch(loops: dict[str, Any]) -> None:
    """Count what Lightning would have counted by the start of the next epoch.

    It completes an epoch after the hooks in which checkpoints are written, and on a restart makes up for that with
    `max_epochs` only; with `max_steps` it counts the epoch again, so that the next one's order is skipped.
    """
    epoch = loops["epoch_progress"]
    if epoch["total"]["processed"] < epoch["total"]["ready"]:
        # Written in the last batch's hooks, after which its step is counted for loggers.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    for progress in (epoch, loops["epoch_loop.batch_progress"]):
        for counts in (progress["total"], progress["current"]):
            counts["processed"] = counts["completed"] = counts["ready"]


# -------------------------------------------------------------------- random numbers


def _rng_state(device: torch.device) -> dict[str, Any]:
    """This rank's generators; arrays as tensors."""
    version, words, gauss = random.getstate()
    generator = np.random.get_state(legacy=False)
    words_of_numpy = torch.from_numpy(generator["state"]["key"].astype("int64"))
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": {**generator, "state": {**generator["state"], "key": words_of_numpy}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _put_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    generator = state["numpy"]
    key = generator["state"]["key"].numpy().astype("uint32")
    np.random.set_state({**generator, "state": {**generator["state"], "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


# -------------------------------------------------------------------- gradients


def _gradients_within_reach(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether gradients stand in `.grad`: FSDP2 holds those that are not yet reduced in private buffers."""
    sharded = any(isinstance(module, FSDPModule) for module in pl_module.modules())
    return not sharded or getattr(trainer.strategy, "sync_every_micro_batch", True)


def _gradients(pl_module: LightningModule) -> dict[str, Tensor]:
    """This rank's gradients, of sharded parameters its own shards."""
    gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
    return {name: _local(gradient).detach().cpu().clone() for name, gradient in gradients.items()}


def _put_gradients(pl_module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    for name, parameter in pl_module.named_parameters():
        if name not in gradients:
            continue
        gradient = gradients[name].to(parameter.device)
        if isinstance(parameter, DTensor):
            gradient = DTensor.from_local(
                gradient,
                parameter.device_mesh,
                parameter.placements,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        parameter.grad = gradient


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# -------------------------------------------------------------------- metrics


def _files(trainer: Trainer) -> list[JsonlLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, JsonlLogger)]


class _Recorder(Logger):
    """Takes what Lightning logs, and keeps it."""

    name = version = ""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.records.append(JsonlLogger.record(metrics, step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


def _metrics_due(trainer: Trainer) -> list[dict[str, Any]]:
    """Metrics that Lightning will log right after the hook in which this checkpoint is written.

    A run that is killed in between never logs them, and the resumed run starts behind them. Where a step or an
    epoch stands, its progress counters tell, as they tell Lightning after a restart.
    """
    loop, connector = trainer.fit_loop, trainer._logger_connector
    step, epoch = loop.epoch_loop.batch_progress.current, loop.epoch_progress.current
    recorder = _Recorder()
    loggers, trainer.loggers = trainer.loggers, [recorder]
    try:
        if step.completed < step.processed:
            connector.update_train_step_metrics()
        elif epoch.completed < epoch.processed:
            last_step = loop.epoch_loop._batches_that_stepped - 1
            metrics = convert_tensors_to_scalars(connector.metrics["log"])
            if metrics:
                recorder.log_metrics({"epoch": trainer.current_epoch} | metrics, last_step)
    finally:
        trainer.loggers = loggers
    return recorder.records


# -------------------------------------------------------------------- ranks


def _gather(trainer: Trainer, mine: Any) -> list[Any] | None:
    """Every rank's value, on rank 0, which writes the checkpoint."""
    if trainer.world_size == 1:
        return [mine]
    gathered = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(mine, gathered, dst=0)
    return gathered
