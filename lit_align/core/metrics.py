"""Means over true counts, across micro-batches and ranks, with one reduction when they are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Meter:
    """Collects sums and counts on the device, and turns them into means when asked.

    All ranks must add the same names; a rank without values adds a count of zero.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._extremes: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, mask: Tensor | None = None, count: Tensor | float | None = None) -> None:
        """Add values to a mean.

        Args:
            name: name of the metric.
            values: any shape; detached here.
            mask: same shape, bool; where False a value does not count.
            count: what the sum of `values` is divided by, if not by their number.
        """
        values = values.detach().double()
        number: Tensor | float = values.numel()
        if mask is not None:
            values, number = torch.where(mask, values, 0.0), mask.sum()
        total = number if count is None else count
        if not isinstance(total, Tensor):
            # Filled on the device, in float64 whatever the default dtype: nothing is copied or rounded.
            total = torch.full((), total, dtype=torch.float64, device=values.device)
        entry = torch.stack([values.sum(), total.to(values)])
        # A restored sum may have been read before the model moved to its device.
        self._sums[name] = self._sums[name].to(entry.device) + entry if name in self._sums else entry

    def add_extremes(self, name: str, values: Tensor) -> None:
        """Keep the least and the greatest of `values` as `min_<name>` and `max_<name>`."""
        values = values.detach().double()
        entry = torch.stack([-values.min(), values.max()])
        known = self._extremes.get(name)
        self._extremes[name] = entry if known is None else torch.maximum(known.to(entry.device), entry)

    def compute(self) -> dict[str, float]:
        """Means over all ranks of everything added since the last `reset`; NaN where nothing was counted."""
        sums, extremes = self._reduced()
        result: dict[str, float] = {}
        if sums:
            table = torch.stack(list(sums.values())).cpu()
            result = dict(zip(sums, (table[:, 0] / table[:, 1]).tolist(), strict=True))
        for name, entry in extremes.items():
            result[f"min_{name}"], result[f"max_{name}"] = -entry[0].item(), entry[1].item()
        return result

    def reset(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._extremes.clear()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What was added so far, over all ranks."""
        sums, extremes = self._reduced()
        return {"sums": sums, "extremes": extremes}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]], device: torch.device) -> None:
        """Go on from `state`, which must count once: rank 0 takes it, the others take zeros."""
        first = not _distributed() or torch.distributed.get_rank() == 0
        sums = {name: entry.to(device) for name, entry in state["sums"].items()}
        self._sums = sums if first else {name: torch.zeros_like(entry) for name, entry in sums.items()}
        self._extremes = {name: entry.to(device) for name, entry in state["extremes"].items()}

    def _reduced(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        reduce = torch.distributed.ReduceOp
        return _all_reduce(self._sums, reduce.SUM), _all_reduce(self._extremes, reduce.MAX)


def _all_reduce(table: dict[str, Tensor], operation: torch.distributed.ReduceOp.RedOpType) -> dict[str, Tensor]:
    if not (table and _distributed()):
        return dict(table)
    stacked = torch.stack(list(table.values()))
    torch.distributed.all_reduce(stacked, op=operation)
    return dict(zip(table, stacked, strict=True))


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of `values` over all ranks; a copy, without gradient."""
    values = values.detach().clone()
    if _distributed():
        torch.distributed.all_reduce(values)
    return values


def over_ranks(values: Tensor) -> tuple[Tensor, slice]:
    """The values of all ranks' micro-batches; all ranks call this together.

    Args:
        values: [B], detached here; ranks may differ in B.

    Returns:
        [N] the values in the order of the ranks, and which of them are this rank's.
    """
    values = values.detach()
    if not _distributed():
        return values, slice(0, len(values))
    own = torch.distributed.get_rank()
    sizes = values.new_zeros(torch.distributed.get_world_size(), dtype=torch.long)
    sizes[own] = len(values)
    torch.distributed.all_reduce(sizes)
    padded = values.new_zeros(int(sizes.max()), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    start = int(sizes[:own].sum())
    everyone = torch.cat([part[:size] for part, size in zip(parts, sizes.tolist(), strict=True)])
    return everyone, slice(start, start + len(values))


def with_all_ranks(values: Tensor) -> tuple[Tensor, slice]:
    """The same, this rank's values with their gradient.

    Args:
        values: [B, ...], with gradient; ranks may differ in B.

    Returns:
        [N, ...] the values in the order of the ranks, and which of them are this rank's.
    """
    everyone, own = over_ranks(values)
    return torch.cat([everyone[: own.start], values, everyone[own.stop :]]), own


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
