"""Two processes, replicated (DDP) or sharded (FSDP2), train as one process does on the same global batch.

Float32 on the CPU. Losses agree to 1e-5 (relative), weights and metrics to 1e-5; measured are 3e-7 and 1e-6. The
optimiser is plain gradient descent with steps large enough to change weights by more than 1e-2, so a wrong scale of the
gradient, which Adam would hide, is a thousand times over the tolerance.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from lit_align.callbacks import LoRA, QLoRA, ReferenceSync
from tests.distributed.jobs import METHODS, Job, Result, run
from tests.launch import launch

TOLERANCE = 1e-5
STRATEGIES = ("ddp", "fsdp2")


def assert_equal_runs(got: Result, expected: Result) -> None:
    """Losses, logged metrics and weights agree."""
    assert len(got.steps) == len(expected.steps) > 0
    assert len(got.validation) == len(expected.validation)
    for mine, theirs in zip(got.steps + got.validation, expected.steps + expected.validation, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            same = math.isnan(value) and math.isnan(mine[name])
            assert same or mine[name] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), name
    assert got.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        torch.testing.assert_close(got.weights[name], weight, rtol=0, atol=TOLERANCE, msg=name)


def assert_trained(result: Result) -> None:
    """The comparison means something: weights have moved far enough to show in the loss."""
    assert abs(result.steps[-1]["loss"] - result.steps[0]["loss"]) > 1e-2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(method, strategy, tiny_model_dir, alone):
    job = Job(method, tiny_model_dir, rows=8, validate=True)
    expected = alone(job)
    assert_trained(expected)
    first, second = launch(run, replace(job, strategy=strategy, rows=4))
    assert_equal_runs(first, expected)
    # Ranks do not drift apart.
    for name, weight in first.weights.items():
        torch.testing.assert_close(second.weights[name], weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_accumulation_on_two_processes_equals_one_large_batch(method, strategy, tiny_model_dir, alone):
    job = Job(method, tiny_model_dir, rows=8, validate=True)
    if method == "kto":
        # Its KL estimate is that of a micro-batch, pooled over ranks.
        job = replace(job, rows=4, accumulate=2)
    expected = alone(job)
    got, _ = launch(run, replace(job, strategy=strategy, rows=2, accumulate=2))
    assert_equal_runs(got, expected)


def test_losses_per_token_are_divided_by_the_tokens_of_all_ranks(tiny_model_dir, alone):
    """Averaging the ranks' own means, as is usual, gives another loss: the test's data can tell."""
    expected = alone(Job("sft", tiny_model_dir, rows=8))
    means = alone(Job("sft", tiny_model_dir, rows=8, module=(("reduction", "sequences"),)))
    assert abs(means.steps[0]["loss"] - expected.steps[0]["loss"]) > 1e-3
    got, _ = launch(run, Job("sft", tiny_model_dir, "fsdp2", rows=4))
    assert got.steps[0]["loss"] == pytest.approx(expected.steps[0]["loss"], rel=TOLERANCE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kto_with_a_rank_that_has_no_mismatched_completion(strategy, tiny_model_dir, alone):
    """The KL estimate is pooled over ranks; no rank waits for one that has nothing to add."""
    job = Job("kto", tiny_model_dir, rows=4, lonely_rank=True)
    got, _ = launch(run, replace(job, strategy=strategy, rows=2))
    assert_equal_runs(got, alone(job))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_optimiser_with_clipping_and_padded_rows(strategy, tiny_model_dir, alone):
    module = (("layout", "padded"), ("weight_decay", 0.1))
    job = Job("dpo", tiny_model_dir, sgd=None, module=module, trainer=(("gradient_clip_val", 0.5),))
    got, _ = launch(run, replace(job, strategy=strategy, rows=4))
    assert_equal_runs(got, alone(job))


REFRESH = {alpha: partial(ReferenceSync, alpha=alpha, every_n_steps=1) for alpha in (0.5, 1.0)}


@pytest.mark.parametrize("alpha", REFRESH)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_refreshed_reference(strategy, alpha, tiny_model_dir, alone):
    """TR-DPO: refreshes reach the shards of the reference, after each optimiser step and not each micro-batch."""
    job = Job("dpo", tiny_model_dir, callbacks=(REFRESH[alpha],))
    expected = alone(job)
    got, _ = launch(run, replace(job, strategy=strategy, rows=2, accumulate=2))
    assert_equal_runs(got, expected)
    # Without a refresh the losses would be others.
    fixed = alone(Job("dpo", tiny_model_dir, validate=True))
    assert abs(fixed.steps[-1]["loss"] - expected.steps[-1]["loss"]) > 1e-2


ADAPTERS = {
    "layers": partial(LoRA, r=4),
    "head": partial(LoRA, r=4, target_modules=["q_proj", "lm_head"]),
    "embedding": partial(LoRA, r=4, target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    "4 bits": partial(QLoRA, r=4),
}


@pytest.mark.parametrize("refreshed", [False, True])
@pytest.mark.parametrize(
    ("strategy", "adapters"), [("ddp", "layers"), ("ddp", "4 bits"), *(("fsdp2", name) for name in ADAPTERS)]
)
def test_adapters(strategy, adapters, refreshed, tiny_model_dir, alone):
    """The reference is the policy without adapters, or with another adapter: both switch `requires_grad`."""
    callbacks = (ADAPTERS[adapters], REFRESH[0.5]) if refreshed else (ADAPTERS[adapters],)
    job = Job("dpo", tiny_model_dir, sgd=0.2, callbacks=callbacks)
    expected = alone(job)
    assert_trained(expected)
    got, _ = launch(run, replace(job, strategy=strategy, rows=4))
    assert_equal_runs(got, expected)
