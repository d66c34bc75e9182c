"""Rewards of several models as one, against numbers worked out elsewhere."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.ensembles import combined, moments, standardised

# Three models, four responses.
SCORES = torch.tensor([[2.0, 1.5, 3.5, 0.0], [1.8, 1.6, 0.2, 0.3], [2.2, 1.4, 1.9, -0.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("how", "ddof", "expected"),
    [
        ("mean", 0, [2.0, 1.5, 1.86666666667, 0.0666666666667]),
        ("worst", 0, [1.8, 1.4, 0.2, -0.1]),
        ("uncertainty", 0, [1.98666666667, 1.49666666667, 0.958888888889, 0.0522222222222]),
        ("uncertainty", 1, [1.98, 1.495, 0.505, 0.045]),
        ("lcb", 1, [1.9, 1.45, 1.0415404137, -0.0374166333066]),
    ],
)
def test_the_numbers_of_the_specification(how, ddof, expected):
    """The population's variance as in the authors' best-of-n code, the sample's as in their PPO code."""
    result = combined(SCORES, how, 0.5, ddof)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_weight_is_that_of_the_disagreement():
    assert torch.equal(combined(SCORES, "uncertainty", 0.0), combined(SCORES, "mean"))
    assert (combined(SCORES, "uncertainty", 1.0) < combined(SCORES, "uncertainty", 0.5)).all()


def test_scores_are_standardised_by_the_moments_of_others():
    samples = torch.tensor([2.0, -1.0, 0.5, 3.5])
    of = moments(samples)
    assert 1 / of.std == pytest.approx(0.596284794, abs=1e-9)
    assert -of.mean / of.std == pytest.approx(-0.7453559925, abs=1e-9)
    expected = [0.4472135955, -1.3416407865, -0.4472135955, 1.3416407865]
    assert standardised(samples.double(), of).tolist() == pytest.approx(expected, abs=1e-9)
    assert standardised(torch.tensor([1.7], dtype=torch.float64), of).item() == pytest.approx(0.2683281573, abs=1e-9)
