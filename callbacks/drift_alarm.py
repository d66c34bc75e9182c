"""Likelihood displacement: the chosen answers become less likely while the margins look better and better."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_align.core.errors import ConfigError
from lit_align.core.steps import OptimizerStepCallback
from lit_align.evaluation.alarms import Alarm, record_alarm

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule

_METRIC = "alarms/displacement"
_ADVICE = (
    "a lower learning_rate; a larger beta, which holds the model closer to its reference; label_smoothing "
    "(ConservativeDPO), which stops pushing once a margin is wide; an SFT term (ORPO, or SimPO with nll_weight). "
    "Look at completions.jsonl: a small fall can be harmless."
)


class DriftAlarm(OptimizerStepCallback):
    """Says in plain words when the log-probability of chosen answers falls while margins rise.

    Preference losses see only differences. They can lower the rejected answer and the chosen one with it, as long
    as the rejected one falls faster; the probability then goes to answers that nobody has judged. Razin et al.,
    "Unintentional Unalignment" (2024), https://arxiv.org/abs/2410.08847.

    The older half of a window of optimiser steps is compared with the newer half, and differences count in standard
    errors, since batches differ. One warning per episode, which alarms.jsonl keeps; `alarms/displacement` is logged as
    1 during it, else 0.

    Args:
        window: optimiser steps that are looked at.
        threshold: standard errors by which `logps/chosen` must fall and `rewards/margins` rise.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, window: int = 100, threshold: float = 3.0) -> None:
        if window < 4:
            raise ConfigError(
                "DriftAlarm needs a longer window",
                got=f"window: {window}",
                fix="give at least 4 optimiser steps; 100 is usual",
            )
        if threshold <= 0:
            raise ConfigError(
                "DriftAlarm needs a positive threshold",
                got=f"threshold: {threshold}",
                fix="give a number of standard errors, such as 3",
            )
        self.window = window
        self.threshold = threshold
        self.alarmed = False
        """Whether an episode is under way."""
        self._chosen: deque[float] = deque(maxlen=window)
        self._margins: deque[float] = deque(maxlen=window)

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the metrics of the optimiser step, which are the same on all ranks."""
        record = cast("AlignmentModule", pl_module).last_step
        assert record is not None
        chosen, margin = record.metrics.get("logps/chosen"), record.metrics.get("rewards/margins")
        if chosen is None or margin is None:
            # As in methods without pairs.
            return
        # A step without a chosen or a rejected answer has NaN.
        if math.isfinite(chosen + margin):
            self._chosen.append(chosen)
            self._margins.append(margin)
            self._judge(trainer.global_step, trainer.loggers)
        # In such a step too: Lightning would repeat the last value, but not in a run that was resumed just before.
        if self._chosen:
            pl_module.log(_METRIC, float(self.alarmed))

    def state_dict(self) -> dict[str, Any]:
        """The window, and whether an episode is under way."""
        return {"alarmed": self.alarmed, "chosen": list(self._chosen), "margins": list(self._margins)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.alarmed = state_dict["alarmed"]
        self._chosen = deque(state_dict["chosen"], maxlen=self.window)
        self._margins = deque(state_dict["margins"], maxlen=self.window)

    def _judge(self, step: int, loggers: Sequence[Logger] = ()) -> None:
        if len(self._chosen) < self.window:
            return
        fall, rise = -_shift(self._chosen), _shift(self._margins)
        if self.alarmed:
            # An episode ends when the fall has: not at the first step below the threshold, or it would flicker.
            self.alarmed = fall > 0 and rise > 0
        elif fall > self.threshold and rise > self.threshold:
            self.alarmed = True
            words = self._words()
            rank_zero_warn(f"Step {step}: likelihood displacement. {words} What to try: {_ADVICE}")
            record_alarm(loggers, Alarm(step, "displacement", words, f"Try {_ADVICE}"))

    def _words(self) -> str:
        (chosen_before, chosen_now), (margin_before, margin_now) = map(_halves, (self._chosen, self._margins))
        return (
            f"Over the last {self.window} optimiser steps the chosen answers have become less likely "
            f"(logps/chosen {fmean(chosen_before):.4g} -> {fmean(chosen_now):.4g} nats) although the margin grows "
            f"(rewards/margins {fmean(margin_before):.3g} -> {fmean(margin_now):.3g}): the model unlearns the rejected "
            "answers, and the chosen ones with them, in favour of answers that are in neither."
        )


def _halves(values: deque[float]) -> tuple[list[float], list[float]]:
    middle = len(values) // 2
    listed = list(values)
    return listed[:middle], listed[middle:]


def _shift(values: deque[float]) -> float:
    """By how many standard errors the newer half lies above the older one (Welch's t)."""
    before, now = _halves(values)
    difference = fmean(now) - fmean(before)
    error = math.sqrt(variance(before) / len(before) + variance(now) / len(now))
    if error == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / error
