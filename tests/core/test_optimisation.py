"""The default optimiser and the learning rate of each step, as numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_align.core.errors import ConfigError
from lit_align.core.optimisation import adamw, schedule_factor


def factors(total: float, warmup_ratio: float, schedule) -> list[float]:
    return [schedule_factor(step, total, warmup_ratio, schedule) for step in range(int(total))]


def test_warm_up_rises_in_a_line_and_wastes_no_step():
    assert factors(10, 0.4, "constant") == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])


def test_after_the_warm_up_the_schedule_starts_at_the_peak_and_ends_at_zero():
    assert factors(10, 0.2, "linear")[2:] == pytest.approx([1 - k / 8 for k in range(8)])
    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert factors(10, 0.2, "cosine")[2:] == pytest.approx(cosine)
    for schedule in ("linear", "cosine"):
        assert schedule_factor(10, 10, 0.2, schedule) == pytest.approx(0, abs=1e-12)
        # Lightning asks once more after the last step.
        assert schedule_factor(11, 10, 0.2, schedule) == pytest.approx(0, abs=1e-12)


def test_without_a_warm_up_the_first_step_is_the_peak():
    assert [schedule_factor(0, 5, 0.0, schedule) for schedule in ("linear", "cosine", "constant")] == [1, 1, 1]


@pytest.mark.parametrize("total", [math.inf, -1])
def test_a_run_of_unknown_length_has_no_schedule(total):
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        schedule_factor(0, total, 0.1, "cosine")


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(model.parameters(), learning_rate=0.1, weight_decay=0.5, fused=False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5 if parameter.ndim == 2 else 1)
        torch.testing.assert_close(parameter.detach(), expected)


def test_models_of_vectors_only_can_be_trained():
    (group,) = adamw(nn.LayerNorm(3).parameters(), 0.1, 0.5, fused=False).param_groups
    assert group["weight_decay"] == 0
