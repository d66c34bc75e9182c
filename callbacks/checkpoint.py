"""Checkpoints that a killed run can go on from as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lit_align.core.checkpoint_io import (
    AtomicCheckpointIO,
    copy_checkpoint,
    discard,
    newest_checkpoint,
    publish,
    remove_stale,
    set_aside,
    temporary,
)
from lit_align.core.errors import ConfigError
from lit_align.core.steps import OptimizerStepCallback


class RunCheckpoint(OptimizerStepCallback, ModelCheckpoint):
    """Saves to `<default_root_dir>/checkpoints/step=<n>.ckpt` and keeps the newest few.

    `--ckpt_path last` goes on from the newest complete one. Checkpoints are written between optimiser steps, and
    after everything else that belongs to a step: its validation, and the end of its epoch. A run that resumes has
    therefore nothing to repeat and nothing to catch up with.

    Training that starts without a checkpoint moves those of an earlier run in the folder to `checkpoints.old`, in place
    of what is there, so that `last` never goes on from another run. Training that goes on from another checkpoint than
    the folder's newest copies it into the folder, if need be, and moves those that do not lead up to it to
    `checkpoints.old`; to `checkpoints.older`, if it comes from there.

    Example::

        trainer:
          callbacks:
            - class_path: lit_align.callbacks.ExactResume
            - class_path: lit_align.callbacks.RunCheckpoint
              init_args: {every_n_steps: 100}

    Args:
        every_n_steps: optimiser steps between checkpoints; 0: none between.
        keep: how many of the newest checkpoints stay; -1 keeps all.
        save_on_validation: also save after every validation.
        save_on_train_end: also save when training ends.
        dirpath: another folder than `<default_root_dir>/checkpoints`.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        keep: int = 2,
        save_on_validation: bool = False,
        save_on_train_end: bool = True,
        dirpath: str | None = None,
    ) -> None:
        if every_n_steps < 0:
            raise ConfigError(
                "RunCheckpoint cannot save at this interval",
                got=f"every_n_steps: {every_n_steps}",
                fix="give a positive number of optimiser steps, or 0 to save at the end only",
            )
        if keep < 1 and keep != -1:
            raise ConfigError(
                "RunCheckpoint must keep at least one file",
                got=f"keep: {keep}",
                fix="give 1 or more, or -1 to keep all",
            )
        super().__init__(
            dirpath=dirpath,
            filename="{step}",
            save_top_k=-1,
            save_last=False,
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.save_on_validation = save_on_validation
        self.save_on_train_end = save_on_train_end
        # Names of this run's files, oldest first: files of other runs in the folder are never deleted.
        self._kept: list[str] = []
        # A checkpoint is wanted, and written as soon as the step has nothing left to do.
        self._due = False

    @property
    def state_key(self) -> str:
        """One key whatever the settings, so that they may change between runs."""
        return "RunCheckpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder; when training starts, remove what killed writers left there."""
        self.dirpath = trainer.strategy.broadcast(str(self._folder(trainer)))
        if stage == "fit" and trainer.is_global_zero:
            remove_stale(self.dirpath)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set aside what does not belong to this run: an earlier one's checkpoints, or those after the resumed one."""
        super().on_train_start(trainer, pl_module)
        # Not in `setup`: sharded strategies restore so late that a resumed run cannot be told from a new one there.
        if trainer.ckpt_path is None:
            self.part_from_earlier_run(trainer)
        elif not trainer.fast_dev_run and Path(trainer.ckpt_path).exists():
            self._go_on_from(trainer, Path(trainer.ckpt_path).absolute())
        trainer.strategy.barrier("RunCheckpoint")
        self._due = False

    def part_from_earlier_run(self, trainer: Trainer) -> None:
        """Set aside the checkpoints that stand in the folder, where training starts at its first step.

        `AlignTrainer` asks for this before it reads data and builds the model; a run that is killed meanwhile would
        else leave the earlier one's checkpoints to be taken for its own.

        Args:
            trainer: about to train without a checkpoint.
        """
        if trainer.global_step > 0 or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        old = set_aside(self._folder(trainer))
        if old is not None:
            print(f"checkpoints of an earlier run were moved to {old}", flush=True)

    def _go_on_from(self, trainer: Trainer, checkpoint: Path) -> None:
        """Make the checkpoint that is resumed the newest of the folder.

        `last` must find neither one of another run there, nor one of steps that this run takes anew.
        """
        folder, name = self._folder(trainer), f"step={trainer.global_step}.ckpt"
        own = checkpoint == folder / name and name in self._kept
        if not own:
            self._kept = [name]
        if not trainer.is_global_zero:
            return
        if not own:
            copied = copy_checkpoint(checkpoint, temporary(folder / name))
        old = set_aside(folder, keep=self._kept if own else (), spare=checkpoint)
        if old is not None:
            print(f"checkpoints that do not lead up to {checkpoint} were moved to {old}", flush=True)
        if not own:
            publish(copied, folder / name)

    def request(self) -> None:
        """Save as soon as the optimiser step under way, or the epoch that ends with it, has nothing left to do."""
        self._due = True

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if a checkpoint is due and the step is over."""
        self._due |= bool(self.every_n_steps) and self._step % self.every_n_steps == 0
        self._due |= self.save_on_train_end and _stops_at_this_step(trainer)
        if not (trainer.is_last_batch or _validation_follows(trainer)):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was held back for the validation; at an epoch's last batch, leave it to the epoch's end."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._due |= self.save_on_validation
        self._due |= self.save_on_train_end and _stops_at_this_step(trainer)
        if not (trainer.is_last_batch or trainer.fit_loop._should_accumulate()):
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was held back for the end of the epoch."""
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        self._due |= self.save_on_train_end and (last_epoch or _stops_at_this_step(trainer))
        self._save_if_due(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The names of this run's checkpoints, with the one that is being written."""
        return {"kept": list(self._kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the names of the run that is resumed."""
        self._kept = list(state_dict["kept"])
        if self._kept and self.dirpath is not None:
            self.best_model_path = str(Path(self.dirpath) / self._kept[-1])

    def _save_if_due(self, trainer: Trainer) -> None:
        if self._due and not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer)
            self._prune(trainer)
        self._due = False

    def _save(self, trainer: Trainer) -> None:
        assert self.dirpath is not None
        path = Path(self.dirpath) / f"step={trainer.global_step}.ckpt"
        self._kept = [name for name in self._kept if name != path.name] + [path.name]
        self.best_model_path = str(path)
        # Strategies that write folders, and those that were given another writer, leave the renaming to us.
        atomic = isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        written = path if atomic else temporary(path)
        trainer.save_checkpoint(written, weights_only=False)
        if written != path and trainer.is_global_zero:
            publish(written, path)
        trainer.strategy.barrier("RunCheckpoint")
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = str(path)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _prune(self, trainer: Trainer) -> None:
        assert self.dirpath is not None
        while self.keep != -1 and len(self._kept) > self.keep:
            oldest = self._kept.pop(0)
            if trainer.is_global_zero:
                discard(Path(self.dirpath) / oldest)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir).absolute() / "checkpoints"

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """What Lightning asks for `ckpt_path="last"`, and picks the newest of."""
        newest = newest_checkpoint(self._folder(trainer))
        return set() if newest is None else {str(newest)}


def _stops_at_this_step(trainer: Trainer) -> bool:
    """Whether training ends with this step, if not for the number of epochs."""
    reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return reached or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def _validation_follows(trainer: Trainer) -> bool:
    """Whether a validation runs after this batch; Lightning tells nobody in advance, so ask what it will ask."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
