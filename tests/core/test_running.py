"""Running means: over all batches and ranks, in checkpoints of every kind, exact whatever the model's precision."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from lit_align.core.policy import LoRASpec
from lit_align.core.running import RunningMean
from tests.launch import launch
from tests.methods.scoring import ready


def test_every_value_counts_the_same():
    mean = RunningMean(start=5.0)
    assert mean.update(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx(3.0)
    assert mean.update(torch.empty(0)) == pytest.approx(3.0)
    first = mean.update(torch.tensor([7.0]))
    assert mean.update(torch.tensor([0.0])) == pytest.approx(16 / 5)
    assert first == pytest.approx(4.0)


def test_a_momentum_weighs_batches():
    mean = RunningMean(momentum=0.9, start=1.0)
    assert mean.update(torch.tensor([2.0, 4.0])) == pytest.approx(0.9 + 0.1 * 3)
    assert mean.update(torch.empty(0)) == pytest.approx(1.2)
    assert mean.update(torch.tensor([0.0])) == pytest.approx(0.9 * 1.2)


def test_it_passes_no_gradient():
    values = torch.ones(3, requires_grad=True)
    assert not RunningMean().update(values).requires_grad


def test_it_stays_exact_in_a_16_bit_model():
    module = nn.ModuleDict({"mean": RunningMean(), "layer": nn.Linear(1, 1)})
    module["mean"].update(torch.full((1001,), 1.001, dtype=torch.float64))
    module.to(torch.bfloat16)
    assert module["layer"].weight.dtype is torch.bfloat16
    assert module["mean"].mean.dtype is module["mean"].count.dtype is torch.float64
    assert module["mean"].update(torch.tensor([1.001])) == pytest.approx(1.001, rel=1e-7)
    assert module["mean"].count == 1002


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2)])
def test_a_methods_running_mean_is_part_of_its_checkpoints(lora, tiny_model_dir):
    module = ready("BCO", tiny_model_dir, lora=lora)
    module.shift.update(torch.tensor([1.0, 2.0]))
    state = module.state_dict()
    assert {"shift.mean", "shift.count"} <= set(state)
    assert not any(name.startswith("reference.") for name in state)
    other = ready("BCO", tiny_model_dir, lora=lora)
    other.load_state_dict(state)
    assert (other.shift.mean, other.shift.count) == (1.5, 2)


def _on_two_ranks() -> list[float]:
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    mean = RunningMean()
    # Three values on rank 0 and none on rank 1; then one on each.
    return [mean.update(torch.arange(3.0 * (1 - rank))).item(), mean.update(torch.tensor([4.0 + rank])).item()]


def test_ranks_have_one_mean():
    assert launch(_on_two_ranks) == [[1.0, pytest.approx(12 / 5)]] * 2
