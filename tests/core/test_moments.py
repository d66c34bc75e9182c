"""Running averages of batches: what they start from, when they move, and what is saved."""

from __future__ import annotations

import pytest
import torch

from lit_align.core.moments import ExponentialMoments
from tests.cases.row import t

GAPS = t(1.0, -0.25, -2.75)


def test_averages_start_at_nothing_and_take_a_batch_in_before_they_are_read():
    moments = ExponentialMoments(0.9)
    first = moments(GAPS)
    std = GAPS.std().item()
    assert (first.mean.item(), first.std.item()) == pytest.approx((0.1 * -2 / 3, 0.1 * std))
    second = moments(GAPS + 1)
    assert (second.mean.item(), second.std.item()) == pytest.approx((0.9 * 0.1 * -2 / 3 + 0.1 / 3, 0.19 * std))


def test_evaluation_leaves_the_averages_as_they_are():
    moments = ExponentialMoments(0.9).eval()
    assert moments(GAPS) == (pytest.approx(-2 / 3), pytest.approx(GAPS.std().item()))
    moments.train()(GAPS)
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    moments.eval()(GAPS + 100)
    assert all(torch.equal(value, before[name]) for name, value in moments.state_dict().items())


def test_batches_of_one_pair_have_no_spread():
    moments = ExponentialMoments(0.9)(t(3.0))
    assert moments.std == 0
    assert moments.standardised(t(3.0)).tolist() == [0.0]


def test_16_bit_modules_keep_averages_in_full_precision():
    moments = ExponentialMoments(0.9)
    moments(GAPS)
    before = moments.mean.mean.clone()
    moments.to(torch.bfloat16)
    assert torch.equal(moments.mean.mean, before)
