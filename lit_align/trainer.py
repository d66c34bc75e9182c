"""Lightning's Trainer with what alignment needs: a run folder, loggers, safe defaults, and two verbs more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry

from lit_align.callbacks import Checkpoint, DriftAlarm, ExactResume, NonFiniteGuard
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.evaluation.jsonl_logger import JsonlLogger

RUNS = Path("runs")

FSDP2Strategy.register_strategies(StrategyRegistry)


class AlignTrainer(Trainer):
    """A Trainer with a run folder per method, exact resume, alarms, and the verbs `generate` and `score`.

    Args:
        default_root_dir: the run folder; None: runs/<name of the method>.
        logger: loggers besides metrics.jsonl in the run folder; None or True: TensorBoard; False: none at all.
        callbacks: callbacks. Checkpoint, ExactResume, NonFiniteGuard and DriftAlarm are added where there are none
            of their kind.
        enable_checkpointing: False writes no checkpoints.
        barebones: nothing but training, to measure its speed.
        inference_mode: evaluate with tensors that cannot be trained on afterwards; FSDP2 does not survive it.
        use_distributed_sampler: wrap samplers of data that is not ours; PreferenceDataModule shards by itself.
        **kwargs: arguments of Lightning's Trainer.
    """

    def __init__(
        self,
        *,
        default_root_dir: str | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        enable_checkpointing: bool | None = None,
        barebones: bool = False,
        inference_mode: bool = False,
        use_distributed_sampler: bool = False,
        **kwargs: Any,
    ) -> None:
        self._folder_is_given = default_root_dir is not None
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        wanted = with_defaults(given, checkpoints=enable_checkpointing is not False and not barebones)
        if logger is not False and not barebones:
            wanted.insert(0, RunLoggers(logger))
        super().__init__(
            default_root_dir=default_root_dir or str(RUNS),
            logger=False,
            callbacks=wanted,
            enable_checkpointing=enable_checkpointing,
            barebones=barebones,
            inference_mode=inference_mode,
            use_distributed_sampler=use_distributed_sampler,
            **kwargs,
        )
        # Strategies that write sharded folders bring their own.
        one_file = isinstance(self.strategy, (SingleDeviceStrategy, DDPStrategy))
        if one_file and type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = AtomicCheckpointIO()

    @property
    def default_root_dir(self) -> str:
        """The run folder. Without one given it is known once a verb has its model: runs/<name of the method>."""
        if self._folder_is_given or self.lightning_module is None:
            return super().default_root_dir
        return str(RUNS / run_name(type(self.lightning_module)))


def run_name(method: type[LightningModule]) -> str:
    """Slug of a method of the package, which is the name of its file; of any other class its name in lower case."""
    package, _, file = method.__module__.rpartition(".")
    return file if package == "lit_align.methods" else method.__name__.lower()


def with_defaults(given: Sequence[Callback], *, checkpoints: bool) -> list[Callback]:
    """Add the callbacks that every run should have, where there are none of their kind.

    Args:
        given: the user's callbacks.
        checkpoints: whether the run writes checkpoints.
    """

    def missing(kind: type[Callback]) -> bool:
        return not any(isinstance(callback, kind) for callback in given)

    # Random numbers are put back before any other callback draws some.
    first = [ExactResume()] if missing(ExactResume) else []
    last: list[Callback] = [kind() for kind in (NonFiniteGuard, DriftAlarm) if missing(kind)]
    if checkpoints and missing(LightningCheckpoint):
        last.append(Checkpoint())
    return [*first, *given, *last]


class RunLoggers(Callback):
    """Attaches the loggers of a run, once the run folder is known.

    Training writes metrics.jsonl and, if nothing else is asked for, TensorBoard. Other verbs use only the loggers that
    the user gave: they may run in the folder of a training run, whose records stay as they are.

    Args:
        logger: as the Trainer takes it; None or True: the default.
    """

    def __init__(self, logger: Logger | Iterable[Logger] | bool | None) -> None:
        self.tensorboard = logger is None or logger is True
        self.given: list[Logger] = []
        if isinstance(logger, Logger):
            self.given = [logger]
        elif logger is not None and not isinstance(logger, bool):
            self.given = list(logger)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach them once, before any other callback asks where the logs are."""
        if trainer.loggers or trainer.fast_dev_run:
            return
        loggers, folder = list(self.given), trainer.default_root_dir
        if stage == "fit" and not any(isinstance(logger, JsonlLogger) for logger in loggers):
            # First: Lightning takes the folder of the first logger for that of the run.
            loggers.insert(0, JsonlLogger(folder))
        if stage == "fit" and self.tensorboard:
            # A fixed version: a resumed run goes on in the same place.
            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        trainer.loggers = loggers
