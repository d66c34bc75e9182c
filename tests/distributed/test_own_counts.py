"""Methods with denominators or running quantities of their own: several processes train as one does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from lit_align.methods.bco import BCO
from lit_align.methods.npo import NPO
from tests.distributed.jobs import METHODS, Job, run
from tests.distributed.test_two_processes import STRATEGIES, assert_equal_runs, assert_trained
from tests.launch import launch

OWN = {"bco": partial(BCO, beta=0.3), "npo": partial(NPO, beta=0.3, retain_weight=0.5, kl_weight=0.5)}


@pytest.fixture(autouse=True)
def own_methods(monkeypatch) -> None:
    """Processes are forked, and know what this one knows."""
    for name, method in OWN.items():
        monkeypatch.setitem(METHODS, name, method)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", OWN)
def test_two_processes_equal_one(method, strategy, tiny_model_dir, alone):
    job = Job(method, tiny_model_dir, rows=8, validate=True)
    expected = alone(job)
    assert_trained(expected)
    first, second = launch(run, replace(job, strategy=strategy, rows=4))
    assert_equal_runs(first, expected)
    assert_equal_runs(second, expected)


def test_accumulation_on_two_processes_equals_one_large_batch(tiny_model_dir, alone):
    """Micro-batches hold as many completions to forget, and tokens to keep, as chance gives them."""
    job = Job("npo", tiny_model_dir, rows=8, validate=True)
    first, _ = launch(run, replace(job, strategy="ddp", rows=2, accumulate=2))
    assert_equal_runs(first, alone(job))
