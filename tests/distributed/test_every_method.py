"""Every method's row: two processes, replicated or sharded, train as one does on the same global batch.

All in one pair of processes, since starting them takes longer than the training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

import lit_align
from lit_align.callbacks import LoRA, ReferenceSync
from lit_align.core.capabilities import Capability
from tests.cases import CASES, Case
from tests.distributed.jobs import METHODS, Job, Result, run
from tests.distributed.test_two_processes import TOLERANCE, assert_equal_runs
from tests.launch import launch

SMALL_STEP = 2e-3
"""Of gradient descent: some losses are a hundred times as steep as others, and none may leave what is smooth."""


def job_of(case: Case, model: str) -> Job:
    """A short run of the row's method."""
    METHODS[case.name] = partial(getattr(lit_align, case.name), **case.training)
    requires = getattr(lit_align, case.name).requires
    callbacks: tuple = (partial(LoRA, r=4),) if Capability.ADAPTERS in requires else ()
    if Capability.REFERENCE_REFRESH in requires:
        callbacks = (*callbacks, partial(ReferenceSync, alpha=0.5, every_n_steps=2))
    return Job(case.name, model, rows=8, examples=16, epochs=1, validate=True, sgd=SMALL_STEP, callbacks=callbacks)


def run_all(jobs: list[Job]) -> list[Result]:
    """One job after the other."""
    for case in CASES:
        METHODS[case.name] = partial(getattr(lit_align, case.name), **case.training)
    return [run(job) for job in jobs]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_equal_one(strategy, tiny_model_dir):
    cases = [case for case in CASES if case.shards or strategy == "ddp"]
    jobs = [job_of(case, tiny_model_dir) for case in cases]
    expected = run_all(jobs)
    ranks = launch(run_all, [replace(job, strategy=strategy, rows=4) for job in jobs], timeout=400)
    different = {}
    for job, alone, first, second in zip(jobs, expected, *ranks, strict=True):
        try:
            assert_equal_runs(first, alone)
            for name, weight in first.weights.items():
                torch.testing.assert_close(second.weights[name], weight, rtol=0, atol=0, msg=name)
        except AssertionError as error:
            different[job.method] = str(error).splitlines()[0]
    assert not different, f"beyond {TOLERANCE}"
