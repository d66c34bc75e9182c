"""Changes of weights become one."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.merging import dare_ties, drop, elect, linear, ties, trim
from tests.cases.row import t

BASE = t(1.0, -2.0, 0.5, 3.0)
SFT = t(0.2, -0.1, 0.0, 0.4)
DPO = t(-0.1, -0.3, 0.05, 0.1)
ONES = (1.0, 1.0)


def test_task_arithmetic():
    assert (BASE + linear([SFT, DPO], ONES)).tolist() == pytest.approx([1.1, -2.4, 0.55, 3.5])
    assert linear([SFT, DPO], (2.0, -1.0)).tolist() == pytest.approx([0.5, 0.1, -0.05, 0.7])


def test_ties():
    merged = ties([SFT, DPO], ONES, density=0.5)
    assert merged.tolist() == pytest.approx([0.2, -0.3, 0.0, 0.4])
    assert (BASE + merged).tolist() == pytest.approx([1.2, -2.3, 0.5, 3.4])


def test_trimming_keeps_the_largest_and_of_equal_ones_the_first():
    assert trim(SFT, 0.5).tolist() == pytest.approx([0.2, 0, 0, 0.4])
    assert trim(DPO, 0.5).tolist() == pytest.approx([-0.1, -0.3, 0, 0])
    assert trim(DPO, 0.75).tolist() == pytest.approx([-0.1, -0.3, 0, 0.1])
    assert trim(DPO, 1.0).tolist() == DPO.tolist()
    assert trim(DPO, 0.1).tolist() == [0, 0, 0, 0]
    assert trim(t(1.0, -1.0, 1.0, 1.0).reshape(2, 2), 0.5).tolist() == [[1, -1], [0, 0]]


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.999])
def test_trimming_agrees_with_a_sort(density):
    delta = torch.randn(1001, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    kept = delta.abs().sort(descending=True, stable=True).indices[: round(density * 1001)]
    expected = torch.zeros_like(delta).index_copy(0, kept, delta[kept])
    assert torch.equal(trim(delta, density), expected)


def test_the_majority_by_weight_decides_on_a_sign():
    first, second = t(1.0, 1.0, 0.0, -2.0), t(-3.0, 4.0, 5.0, 2.0)
    assert elect([first, second], (1.0, 1.0)).tolist() == [-3, 2.5, 5, 0]
    assert elect([first, second], (4.0, 1.0)).tolist() == pytest.approx([1, 8 / 5, 5, -2])


def test_dropping_keeps_the_expectation_and_follows_the_seed():
    delta = torch.ones(100_000)
    result = drop(delta, 0.2, torch.Generator().manual_seed(3))
    assert set(result.tolist()) == {0.0, 5.0}
    assert result.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(result, drop(delta, 0.2, torch.Generator().manual_seed(3)))
    assert not torch.equal(result, drop(delta, 0.2, torch.Generator().manual_seed(4)))


def test_dare_ties_keeps_everything_at_density_one():
    merged = dare_ties([SFT, DPO], ONES, 1.0, torch.Generator())
    assert merged.tolist() == pytest.approx(ties([SFT, DPO], ONES, 1.0).tolist())
    assert merged.tolist() == pytest.approx([0.2, -0.2, 0.05, 0.25])


def test_dare_ties_draws_for_each_model_by_itself():
    delta = torch.ones(1000)
    merged = dare_ties([delta, delta], ONES, 0.5, torch.Generator().manual_seed(0))
    # An entry is lost only where both models drop it.
    assert (merged == 0).double().mean().item() == pytest.approx(0.25, abs=0.05)
