"""NPO, whose terms have denominators of their own: accumulated micro-batches train as one batch does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lit_align.methods.npo import NPO
from tests.distributed.jobs import METHODS, Job, run
from tests.distributed.test_two_processes import assert_equal_runs
from tests.launch import launch


def test_accumulation_on_two_processes_equals_one_large_batch(tiny_model_dir, alone, monkeypatch):
    """Micro-batches hold as many completions to forget, and tokens to keep, as chance gives them."""
    # Processes are forked, and know what this one knows.
    monkeypatch.setitem(METHODS, "npo", partial(NPO, beta=0.3, retain_weight=0.5, kl_weight=0.5))
    job = Job("npo", tiny_model_dir, rows=8, validate=True)
    first, _ = launch(run, replace(job, strategy="ddp", rows=2, accumulate=2))
    assert_equal_runs(first, alone(job))
