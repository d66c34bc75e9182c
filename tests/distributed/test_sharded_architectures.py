"""The sharding plan finds the layers of every architecture, and changes neither values nor gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from lit_align.core.architectures import resolve_layout
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from lit_align.core.sharding import decoder_layers, shard
from tests.core.test_architectures import EXAMPLES, REFUSED, SUPPORTED, build
from tests.launch import launch

ARCHITECTURES = SUPPORTED | {name: settings for name, (settings, _) in REFUSED.items()}


def _largest_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()


def _compare(name: str) -> tuple[int, float, float]:
    """Layers that are sharded, and the largest relative error of log-probabilities and gradients on two ranks."""
    whole = Scorer(build(name, ARCHITECTURES[name], torch.float32))
    sharded = copy.deepcopy(whole)
    layers = len(list(decoder_layers(sharded)))
    shard(sharded, init_device_mesh("cpu", (dist.get_world_size(),)))
    layout = resolve_layout("auto", whole.model.config)
    expected = whole.sequence_logps(build_rows(EXAMPLES, layout)).sums
    expected.sum().backward()
    mine = EXAMPLES[dist.get_rank() :: 2]
    sums = sharded.sequence_logps(build_rows(mine, layout)).sums
    # FSDP averages gradients over ranks.
    (2 * sums.sum()).backward()
    responses = [len(example.ids) for example in EXAMPLES]
    own = torch.cat(expected.split(responses)[dist.get_rank() :: 2])
    gradients = [
        _largest_error(p.grad.full_tensor(), q.grad)
        for p, q in zip(sharded.parameters(), whole.parameters(), strict=True)
        if q.grad is not None
    ]
    return layers, _largest_error(sums, own), max(gradients)


def _compare_all(names: list[str]) -> dict[str, tuple[int, float, float]]:
    dist.init_process_group("gloo")
    return {name: _compare(name) for name in names}


@pytest.mark.parametrize("part", range(3))
def test_sharded_architectures(part):
    for found in launch(_compare_all, list(ARCHITECTURES)[part::3]):
        for name, (layers, value, gradient) in found.items():
            # Mamba names its blocks, and the mixers inside of them.
            assert layers == (4 if name == "mamba" else 2), name
            assert value < 1e-5, name
            assert gradient < 1e-4, name
