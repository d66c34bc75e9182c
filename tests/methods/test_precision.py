"""Every method on 16-bit weights, and on a policy thousands of nats from its reference: finite, and in float64."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.batch import Layout
from tests.cases import CASES, Case
from tests.methods.scoring import Scored, collated, make_examples, ready, scored

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)


def of(case: Case, model: str, dtype: str, stretch: float = 1.0) -> tuple[Scored, torch.Tensor]:
    """The batch's scores, and log-probabilities or rewards that the loss is made of."""
    module = ready(case.name, model, dtype=dtype, **case.values[0].kwargs)
    model_ = module.policy.model
    head = model_.lm_head if module.head == "lm" else model_.score
    with torch.no_grad():
        head.weight.mul_(stretch)
    batch = collated(module, make_examples(module.data_kind), Layout.SHARED)
    made_of = module.policy.sequence_logps(batch.rows).sums if module.head == "lm" else module.policy(batch.rows)
    return scored(module, batch), made_of.detach()


@by_slug
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_losses_of_16_bit_weights_are_computed_in_float64(case: Case, dtype: str, tiny_model_dir):
    low, _ = of(case, tiny_model_dir, dtype)
    full, _ = of(case, tiny_model_dir, "float32")
    assert low.loss.dtype == low.values.dtype == full.values.dtype == torch.float64
    # Numbers that had passed through 16 bits would be among the few that those can hold.
    assert (low.values != low.values.to(getattr(torch, dtype))).all()
    assert low.gradient.isfinite().all()
    assert low.loss.item() == pytest.approx(full.loss.item(), rel=0.1)


@by_slug
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("stretch", [3e3, -3e3])
def test_thousands_of_nats_stay_finite(case: Case, dtype: str, stretch: float, tiny_model_dir):
    result, made_of = of(case, tiny_model_dir, dtype, stretch)
    # Rows of a normalised head are of unit length, however long they are.
    assert made_of.abs().max() > 2000 or getattr(lit_align, case.name).normalised_head
    assert result.values.isfinite().all()
    assert result.gradient.isfinite().all()
    assert all(value == value and abs(value) != float("inf") for value in result.metrics.values())
