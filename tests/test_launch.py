"""The harness itself: what it returns, and how it fails."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.launch import RankError, launch


def _sum_of_ranks(offset: int) -> tuple[int, float]:
    dist.init_process_group("gloo")
    total = torch.tensor(float(dist.get_rank() + offset))
    dist.all_reduce(total)
    return dist.get_rank(), float(total)


def _fail_on_rank_one() -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("rank one is unwell")
    dist.barrier()


def test_ranks_form_a_group_and_return_in_order():
    assert launch(_sum_of_ranks, 10) == [(0, 21.0), (1, 21.0)]


def test_one_process_is_a_group_too():
    assert launch(_sum_of_ranks, 1, world=1) == [(0, 1.0)]


def test_failure_of_a_rank_ends_the_others_and_shows_its_traceback():
    started = time.monotonic()
    with pytest.raises(RankError, match="rank one is unwell"):
        launch(_fail_on_rank_one, timeout=60)
    assert time.monotonic() - started < 20


def test_a_rank_that_hangs_is_ended():
    with pytest.raises(RankError, match="still running"):
        launch(time.sleep, 60, timeout=1.5)


def test_a_rank_that_dies_is_noticed():
    with pytest.raises(RankError, match="died without a word"):
        launch(os._exit, 3)


def test_the_environment_of_the_caller_is_left_alone():
    launch(_sum_of_ranks, 0)
    assert "RANK" not in os.environ
    assert "TORCHELASTIC_RUN_ID" not in os.environ
