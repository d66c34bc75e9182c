"""Losses and gradients that are not numbers: stop with the rows that made them, or leave the step out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_align.core.errors import AlignError, ConfigError
from lit_align.evaluation.alarms import Alarm, record_alarm

_MOST_NAMED = 8
_HELP = (
    "look at these rows of the training data; lower the learning rate, clip gradients "
    "(trainer.gradient_clip_val: 1.0), use float32 or bf16 instead of float16"
)


class NonFiniteError(AlignError, FloatingPointError):
    """A loss or a gradient is infinite or not a number."""


class _MicroBatch(NamedTuple):
    loss: Tensor
    values: Tensor | None
    source_rows: Tensor | None


class NonFiniteGuard(Callback):
    """Looks at losses and gradients before every optimiser step, on all ranks.

    A step whose numbers are not finite would ruin the weights: one NaN gradient makes them all NaN.

    Args:
        action: stop: raise an error that names the rows of the data; skip: leave the optimiser step out, as if its
            batches had not been there, and go on (steps and learning rate count on).
        patience: how many steps in a row may be skipped before training stops after all.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", patience: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise ConfigError("NonFiniteGuard does not know this action", got=f"action: {action}", fix="stop or skip")
        if patience < 0:
            raise ConfigError("NonFiniteGuard needs a number of steps", got=f"patience: {patience}", fix="0 or more")
        self.action = action
        self.patience = patience
        self.skipped = 0
        """Optimiser steps that were left out in this run."""
        self._in_a_row = 0
        # The micro-batches of the optimiser step that is under way.
        self._window: list[_MicroBatch] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the micro-batch; nothing is read from the device yet."""
        step = getattr(pl_module, "last_step", None)
        values, rows = (None, None) if step is None else (step.values, step.source_rows)
        self._window.append(_MicroBatch(loss.detach(), values, rows))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Stop, or empty the gradients, where a rank has found a number that is not finite.

        Raises:
            NonFiniteError: with `action: stop`, or when patience has ended.
        """
        window, self._window = self._window, []
        losses_finite = all(bool(micro.loss.isfinite()) for micro in window)
        # With float16, overflowing gradients are ordinary: the gradient scaler leaves such steps out itself.
        gradients_finite = trainer.precision == "16-mixed" or _gradients_finite(pl_module)
        fine = losses_finite and gradients_finite
        if trainer.strategy.reduce_boolean_decision(fine, all=True):
            self._in_a_row = 0
        elif self.action == "stop" or self._in_a_row >= self.patience:
            error = self._error(trainer, pl_module, window, gradients_finite)
            words = f"Training stopped: {error.what} ({error.got})."
            _record(trainer, "not_finite", words)
            raise error
        else:
            self._skip(trainer, optimizer, window)
        if self.skipped:
            # At every step: Lightning would repeat an earlier value anyway, but not after a restart.
            pl_module.log("skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def _skip(self, trainer: Trainer, optimizer: Optimizer, window: list[_MicroBatch]) -> None:
        # An optimiser passes over parameters without gradient: neither weights nor moments change.
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self._in_a_row += 1
        rows = _gather(trainer, _describe(window, _namer(trainer)))
        words = f"was left out, its loss or gradient is not finite ({rows}). Skipped so far: {self.skipped}."
        rank_zero_warn(f"Step {trainer.global_step + 1} {words}")
        _record(trainer, "skipped_step", f"The step {words}")

    def _error(
        self, trainer: Trainer, pl_module: LightningModule, window: list[_MicroBatch], gradients_finite: bool
    ) -> NonFiniteError:
        found = _gather(trainer, _describe(window, _namer(trainer)))
        if not gradients_finite:
            names = _culprits(pl_module)
            where = _shortened(names, "parameters") if names else "the shards of another rank"
            found += f"; gradients not finite in {where}"
        after = f" after {self._in_a_row} skipped steps in a row" if self._in_a_row else ""
        return NonFiniteError(
            f"the loss or its gradient is not finite at optimiser step {trainer.global_step + 1}{after}",
            got=found,
            fix=f"{_HELP}; NonFiniteGuard(action: skip) leaves such steps out",
        )


def _record(trainer: Trainer, name: str, words: str) -> None:
    record_alarm(trainer.loggers, Alarm(trainer.global_step + 1, name, words, f"{_HELP[0].upper()}{_HELP[1:]}."))


def _gradients_finite(pl_module: LightningModule) -> bool:
    gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # Of sharded gradients the norm is a DTensor, which has to be put together on all ranks.
    return bool((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).isfinite())


def _culprits(pl_module: LightningModule) -> list[str]:
    """Parameters of which this rank holds a gradient that is not finite."""
    gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
    local = {name: g.to_local() if hasattr(g, "to_local") else g for name, g in gradients.items()}
    return [name for name, gradient in local.items() if not gradient.isfinite().all()]


def _namer(trainer: Trainer) -> Callable[[int], str]:
    """Tells where a row stands: with several files of data, its number alone does not."""
    return getattr(trainer.datamodule, "where", str)


def _describe(window: list[_MicroBatch], name: Callable[[int], str]) -> str:
    """Which rows of the data have a loss that is not finite; all rows of the step, where none has."""
    bad: list[str] = []
    rows: list[str] = []
    for micro in window:
        if micro.values is None or micro.source_rows is None:
            continue
        for row, value in zip(micro.source_rows.tolist(), micro.values.tolist(), strict=True):
            rows.append(name(row))
            if not math.isfinite(value):
                bad.append(f"{name(row)} (loss {value})")
    if bad:
        return _shortened(bad, "rows")
    if rows:
        return f"{_shortened(rows, 'rows')}, whose own losses are finite"
    return "rows unknown: the module keeps no record of its steps"


def _shortened(items: list[str], noun: str) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return f"{noun} {', '.join(items[:_MOST_NAMED])}{more}"


def _gather(trainer: Trainer, mine: str) -> str:
    """What all ranks have to say; every rank calls this."""
    if trainer.world_size == 1:
        return mine
    said: list[str] = [""] * trainer.world_size
    torch.distributed.all_gather_object(said, mine)
    return "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(said))
