"""The default optimiser and learning rate: AdamW without decay on vectors, a linear warm-up, then a schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from lit_align.core.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant"]


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, *, fused: bool) -> Optimizer:
    """AdamW that decays matrices only: norms and biases are scales, not features.

    Args:
        parameters: what is trained.
        learning_rate: peak learning rate.
        weight_decay: decay of the matrices.
        fused: one kernel for all parameters, on a GPU.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=fused)


def schedule_factor(step: int, total: float, warmup_ratio: float, schedule: Schedule) -> float:
    """The learning rate of an optimiser step, as a share of its peak.

    Args:
        step: optimiser steps that were made, from 0.
        total: optimiser steps of the run.
        warmup_ratio: share of them over which the rate rises.
        schedule: what it does after that.

    Raises:
        ConfigError: nobody knows how long the run is.
    """
    if schedule == "constant" and not warmup_ratio:
        return 1.0
    # Lightning gives -1 for a stream that only `max_epochs` ends.
    if math.isinf(total) or total < 0:
        raise ConfigError(
            "the length of the run is unknown, so the learning rate cannot be scheduled",
            got="a run that is ended by nothing, by the clock (max_time), or by epochs of streamed data",
            fix="set trainer.max_steps, or model.schedule: constant with model.warmup_ratio: 0",
        )
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        # The first step trains too: a factor of 0 would waste it.
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return max(0.0, 1 - progress) if schedule == "linear" else 1.0
