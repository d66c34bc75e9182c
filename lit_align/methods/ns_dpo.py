"""NS-DPO: Son et al. 2024, "Right Now, Wrong Then: Non-Stationary Direct Preference Optimization under Preference
Drift".

https://arxiv.org/abs/2407.18676 (equation number not checked). Preferences change with time; each pair's loss is
weighted by gamma^(current_time - timestamp - 1), so that old ones are forgotten. With gamma 1 and a `window` it is the
paper's baseline SW-DPO, which forgets all at once.

Differs: normalised weights add up to one over the micro-batches of all ranks together (under accumulation in each
micro-batch), and the current time cancels out; the authors' code divides by the number of pairs once more. A small
batch may hold old pairs only, which normalised weights do not tell from new ones: use large ones, or `normalise:
false`, for which accumulation and ranks make no difference.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import PairwiseModule
from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, up_to_one
from lit_align.methods.dpo import dpo_loss


class NSDPO(PairwiseModule):
    """Non-stationary DPO (NS-DPO, SW-DPO).

    When: preferences were stated over a long time, and have changed since.

    Args:
        beta: KL strength; larger stays closer to the reference.
        gamma: discount per unit of time, in (0, 1]; 1 is DPO. For a change at a known time t of 100, the paper takes
            1 - log(100) / (100 - t).
        current_time: the present, above all timestamps; needed without `normalise` and with a `window`.
        normalise: divide by the sum of weights.
        window: units of time before `current_time` after which a pair is left out; None keeps all.
        time_unit: unit of time in those of the timestamps; dates are in days, and 30 makes gamma a discount per month.
    """

    reads = ("timestamp",)
    needs_fields = frozenset({"timestamp"})

    def __init__(
        self,
        *,
        beta: float = 0.1,
        gamma: float = 0.95,
        current_time: float | None = None,
        normalise: bool = True,
        window: float | None = None,
        time_unit: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.gamma = up_to_one("gamma", positive("gamma", gamma))
        self.window = None if window is None else positive("window", window)
        self.time_unit = positive("time_unit", time_unit)
        if current_time is None and (window is not None or not normalise):
            raise ConfigError(
                "NSDPO does not know the present",
                got=f"current_time: null with normalise: {normalise} and window: {window}",
                fix="give current_time, the newest timestamp plus one unit of time, or leave normalise on",
            )
        self.current_time, self.normalise = current_time, normalise

    def weights(self, timestamp: Tensor) -> Tensor:
        """Weights [B] of pairs that were stated at `timestamp` [B]; all ranks call this together."""
        times, own = over_ranks(timestamp)
        present = times.max() + self.time_unit if self.current_time is None else self.current_time
        ages = (present - times) / self.time_unit
        logs = math.log(self.gamma) * (ages - 1).clamp(min=0)
        if self.window is not None:
            logs = logs.masked_fill(ages > self.window, -torch.inf)
        if self.normalise:
            # Of very old pairs alone the weights themselves would be 0; where all are left out they are.
            return (len(times) * torch.softmax(logs, 0)).nan_to_num(0.0)[own]
        return logs.exp()[own]

    def losses(self, policy: PairLogps, reference: PairLogps, timestamp: Tensor) -> Tensor:
        """Weighted losses [B] of the pairs, nats; records the share of the pairs that the weights leave."""
        weights = self.weights(timestamp)
        everyone, _ = over_ranks(weights)
        self.meter.add("ns_dpo/effective", everyone.mean() ** 2 / everyone.square().mean().clamp(min=1e-300))
        return weights * dpo_loss(policy, reference, self.beta)
