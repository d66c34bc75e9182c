"""Means over true counts: what was restored counts once, however many ranks there are."""

from __future__ import annotations

import os

import torch

from lit_align.core.metrics import Meter
from tests.launch import launch


def rank_means() -> tuple[dict[str, float], dict[str, float]]:
    """Means before a checkpoint, and of what is restored with one more value on each rank."""
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    meter = Meter()
    # Three values on rank 0, one on rank 1: a mean of the ranks' means would be another.
    meter.add("x", torch.arange(3.0 - 2 * rank))
    meter.add_extremes("x", torch.tensor([-1.0 - rank, 4.0 + rank]))
    restored = Meter()
    restored.load_state_dict(meter.state_dict(), torch.device("cpu"))
    restored.add("x", torch.tensor([6.0]))
    return meter.compute(), restored.compute()


def test_ranks_agree_and_count_a_restored_state_once():
    for before, after in launch(rank_means):
        assert before == {"x": (0 + 1 + 2 + 0) / 4, "min_x": -2, "max_x": 5}
        assert after == {"x": (3 + 6 + 6) / 6, "min_x": -2, "max_x": 5}
