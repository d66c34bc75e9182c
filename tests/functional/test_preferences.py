"""Both orders of a comparison as one probability."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.preferences import both_orders


@pytest.mark.parametrize(("how", "expected"), [("mean", 0.654818581369), ("antisymmetric", 0.657010462673)])
def test_the_numbers_of_the_specification(how, expected):
    first, second = torch.tensor([0.9, -0.4], dtype=torch.float64)
    assert both_orders(first, second, how).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("how", ["mean", "antisymmetric"])
def test_exchanging_the_responses_exchanges_the_verdict(how):
    first, second = torch.randn(2, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        both_orders(first, second, how) + both_orders(second, first, how), torch.ones(20).double()
    )
    # A response against itself: both orders are one text.
    torch.testing.assert_close(both_orders(first, first, how), torch.full((20,), 0.5).double())
