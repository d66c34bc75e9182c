"""Lightning's Trainer with what alignment needs: a run folder, loggers, safe defaults, and two verbs more."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lit_align.callbacks import DriftAlarm, ExactResume, NonFiniteGuard, RunCheckpoint, RunRecord, Timing
from lit_align.core.batch import DataKind, ResponseBatch
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.module import AlignmentModule
from lit_align.core.ranges import positive
from lit_align.core.steps import is_logged
from lit_align.data.module import PreferenceDataModule
from lit_align.data.places import Places
from lit_align.evaluation.console import EpochBar, SizeSummary
from lit_align.evaluation.jsonl_logger import JsonlLogger
from lit_align.evaluation.predictions import Record, complete_batch, describe_responses, score_batch

RUNS = Path("runs")

FSDP2Strategy.register_strategies(StrategyRegistry)


class AlignTrainer(Trainer):
    """A Trainer with a run folder per method, exact resume, alarms, and the verbs `generate` and `score`.

    Args:
        default_root_dir: the run folder; None: runs/<name of the method>.
        logger: loggers besides metrics.jsonl in the run folder; None or True: TensorBoard; False: none at all, and no
            record of the run.
        callbacks: callbacks. RunCheckpoint, ExactResume, NonFiniteGuard, DriftAlarm, RunRecord and Timing are added
            where there are none of their kind.
        max_epochs: passes over the training data; None: one, unless `max_steps` or `max_time` says how long.
        max_steps: optimiser steps; -1: no limit.
        max_time: as DD:HH:MM:SS.
        accumulate_grad_batches: micro-batches per optimiser step.
        enable_checkpointing: False writes no checkpoints.
        enable_progress_bar: False shows no progress.
        enable_model_summary: False says nothing about the size of the model.
        barebones: nothing but training, to measure its speed.
        inference_mode: evaluate with tensors that cannot be trained on afterwards; FSDP2 does not survive it.
        use_distributed_sampler: wrap samplers of data that is not ours; PreferenceDataModule shards by itself.
        **kwargs: arguments of Lightning's Trainer.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        *,
        default_root_dir: str | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        max_epochs: int | None = None,
        max_steps: int = -1,
        max_time: str | timedelta | dict[str, int] | None = None,
        accumulate_grad_batches: int = 1,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        barebones: bool = False,
        inference_mode: bool = False,
        use_distributed_sampler: bool = False,
        **kwargs: Any,
    ) -> None:
        self._folder_is_given = default_root_dir is not None
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        recorded = logger is not False and not barebones
        wanted = with_defaults(given, checkpoints=enable_checkpointing is not False and not barebones, records=recorded)
        if recorded:
            wanted.insert(0, RunLoggers(logger))
        if not barebones:
            wanted += console(given, progress=enable_progress_bar is not False, size=enable_model_summary is not False)
        super().__init__(
            default_root_dir=default_root_dir or str(RUNS),
            logger=False,
            callbacks=wanted,
            # Lightning's default is a thousand.
            max_epochs=1 if max_epochs is None and max_steps == -1 and max_time is None else max_epochs,
            max_steps=max_steps,
            max_time=max_time,
            accumulate_grad_batches=int(positive("trainer.accumulate_grad_batches", accumulate_grad_batches)),
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            # `SizeSummary` or the user's own is among the callbacks.
            enable_model_summary=None if barebones else False,
            barebones=barebones,
            inference_mode=inference_mode,
            use_distributed_sampler=use_distributed_sampler,
            **kwargs,
        )
        self._logger_connector = LogsFirstAndLastStep(self)
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

    def _run(self, model: LightningModule, ckpt_path: str | Path | None = None, **kwargs: Any) -> Any:
        """Part from an earlier run in the folder as soon as it is known that training starts anew."""
        if self.state.fn == TrainerFn.FITTING and ckpt_path is None:
            for callback in self.checkpoint_callbacks:
                if isinstance(callback, RunCheckpoint):
                    callback.part_from_earlier_run(self)
        return super()._run(model, ckpt_path=ckpt_path, **kwargs)

    def generate(
        self,
        model: AlignmentModule,
        datamodule: PreferenceDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: list[str] | None = None,
    ) -> list[Record]:
        """Complete the prompts of `data.predict`, and write them as JSON lines.

        Args:
            model: a method; its policy writes.
            datamodule: the data.
            ckpt_path: checkpoint to read, `last` for the newest of the run folder; None: the policy as it is.
            out: file to write; None: generated.jsonl in the run folder.
            max_new_tokens: longest completion, tokens.
            temperature: 0 takes the likeliest token each time; 1 samples from the model.
            top_p: sample from the likeliest tokens that have this probability together.
            seed: of the sampling.
            stop: strings that end a completion.

        Returns:
            The records that were written, in the order of the data.
        """
        sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        datamodule.predict_kind = DataKind.PROMPTS
        model.predict_function = lambda method, batch: complete_batch(
            method.policy, datamodule.tokenizer, batch, seed=seed, stop=stop or (), **sampling
        )
        return self._predict_to(out, "generated.jsonl", model, datamodule, ckpt_path)

    def score(
        self,
        model: AlignmentModule,
        datamodule: PreferenceDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        tokens: bool = False,
    ) -> list[Record]:
        """Score the responses of `data.predict` by log-probability or reward, and write a JSON line for each.

        Args:
            model: a method; its policy scores.
            datamodule: the data, of any kind that holds responses: pairs, ranked, labelled or single ones, whatever the
                method learns from. `convert` is passed over.
            ckpt_path: checkpoint to read, `last` for the newest of the run folder; None: the policy as it is.
            out: file to write; None: scores.jsonl in the run folder.
            tokens: also write each scored token's text and implicit reward, beta times its log-ratio.

        Returns:
            The records that were written, in the order of the data; for their names and values see
            `evaluation.predictions`, `describe_responses` and `score_batch`.
        """

        def score(method: AlignmentModule, batch: ResponseBatch) -> list[Record]:
            examples, tokenizer = datamodule.examples("predict"), datamodule.tokenizer
            responses = chain(*(describe_responses(examples[index], tokenizer) for index in batch.indices.tolist()))
            scores = score_batch(method, batch, tokenizer if tokens else None)
            return [about | values for about, values in zip(responses, scores, strict=True)]

        datamodule.predict_kind = DataKind.RESPONSES
        model.predict_function = score
        records = self._predict_to(out, "scores.jsonl", model, datamodule, ckpt_path)
        if ckpt_path is None and getattr(model.policy.model, "has_new_head", False):
            rank_zero_warn(
                f"{model.policy_name} has no head that scores, so these rewards are random: "
                "give a checkpoint with --ckpt_path, or a trained reward model as model.policy."
            )
        return records

    def _predict_to(
        self,
        out: str | None,
        name: str,
        model: AlignmentModule,
        datamodule: PreferenceDataModule,
        ckpt_path: str | None,
    ) -> list[Record]:
        batches = self.predict(model, datamodule=datamodule, ckpt_path=ckpt_path)
        mine = [record for batch in batches for record in batch]
        parts: list[Any] = [mine]
        if self.world_size > 1:
            parts = [None] * self.world_size
            torch.distributed.all_gather_object(parts, mine)
        places = datamodule.reports["predict"].places
        records = [_located(record, places) for record in sorted(chain(*parts), key=_order)]
        if self.is_global_zero:
            path = Path(out) if out else Path(self.default_root_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            path.write_text(lines, encoding="utf-8")
            print(f"{len(records)} records: {path}")
        return records


def _order(record: Record) -> tuple[int, int]:
    return record["row"], record.get("response", 0)


def _located(record: Record, places: Places) -> Record:
    """A record with a file and the row in it, in place of the number that the row has in the set."""
    file, row = places.find(record["row"])
    return {"file": file} | record | {"row": row}


def run_name(method: type[LightningModule]) -> str:
    """Slug of a method of the package, which is the name of its file; of any other class its name in lower case."""
    package, _, file = method.__module__.rpartition(".")
    return file if package == "lit_align.methods" else method.__name__.lower()


def with_defaults(given: Sequence[Callback], *, checkpoints: bool, records: bool) -> list[Callback]:
    """Add the callbacks that every run should have, where there are none of their kind.

    Args:
        given: the user's callbacks.
        checkpoints: whether the run writes checkpoints.
        records: whether it leaves a record of what was run, how fast, and in what memory.
    """

    def missing(kind: type[Callback]) -> bool:
        return not any(isinstance(callback, kind) for callback in given)

    # Random numbers are put back before any other callback draws some.
    first = [ExactResume()] if missing(ExactResume) else []
    wanted: tuple[type[Callback], ...] = (NonFiniteGuard, DriftAlarm, *((RunRecord, Timing) if records else ()))
    last: list[Callback] = [kind() for kind in wanted if missing(kind)]
    if checkpoints and missing(RunCheckpoint):
        last.append(RunCheckpoint())
    return [*first, *given, *last]


def console(given: Sequence[Callback], *, progress: bool, size: bool) -> list[Callback]:
    """What says in the terminal how a run goes, where the user has given nothing of the kind.

    Args:
        given: the user's callbacks.
        progress: whether progress is shown.
        size: whether the size of the model is shown.
    """
    bar: list[Callback] = [EpochBar()] if progress and not any(isinstance(c, ProgressBar) for c in given) else []
    summary: list[Callback] = [SizeSummary()] if size and not any(isinstance(c, ModelSummary) for c in given) else []
    return bar + summary


class LogsFirstAndLastStep(_LoggerConnector):
    """Logs the first and the last optimiser step too, so that a run shorter than `log_every_n_steps` leaves metrics."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        # Lightning would warn that such a run logs nothing.
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")

    @property
    def should_update_logs(self) -> bool:
        """Whether the step under way is logged."""
        return super().should_update_logs or (self.trainer.training and is_logged(self.trainer))


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
        for callback in trainer.checkpoint_callbacks:
            # Else they would lie in the folder of the first logger.
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(trainer.default_root_dir).absolute() / "checkpoints")
        if trainer.loggers or trainer.fast_dev_run:
            return
        loggers, folder = list(self.given), trainer.default_root_dir
        if stage == "fit" and not any(isinstance(logger, JsonlLogger) for logger in loggers):
            # First: Lightning takes the folder of the first logger for that of the run.
            loggers.insert(0, JsonlLogger(folder))
        if stage == "fit" and self.tensorboard:
            # A fixed version: a resumed run goes on in the same place.
            loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        trainer.loggers = loggers
