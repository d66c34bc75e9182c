"""Heads that are more than a matrix: a bias counts in log-probabilities and is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_align.core.batch import Layout
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from tests.core.oracle import make_examples, plain_logps
from tests.helpers import tiny_model


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("trained", [True, False])
def test_a_head_with_a_bias(layout, trained):
    model = tiny_model(dtype=torch.float64)
    biased = nn.Linear(32, 264, dtype=torch.float64)
    nn.init.normal_(biased.bias, std=2.0)
    with torch.no_grad():
        biased.weight.copy_(model.lm_head.weight)
    model.lm_head = biased.requires_grad_(trained)
    examples = make_examples()
    expected, sums = plain_logps(model, examples)
    expected_gradient = torch.autograd.grad(sums.sum(), model.model.norm.weight, retain_graph=True)
    expected_bias = torch.autograd.grad(sums.sum(), biased.bias) if trained else ()

    logps = Scorer(model)(build_rows(examples, layout))
    torch.testing.assert_close(logps, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(logps.sum(), model.model.norm.weight, retain_graph=True),
        expected_gradient,
        rtol=1e-5,
        atol=1e-6,
    )
    if trained:
        torch.testing.assert_close(torch.autograd.grad(logps.sum(), biased.bias), expected_bias, rtol=1e-5, atol=1e-6)
