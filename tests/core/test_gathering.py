"""Whole weights of a sharded model between steps, and the settings of sharding as before."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lit_align.core.gathering import gathered
from tests.launch import launch


class Net(nn.Module):
    """Two layers that are sharded by themselves, and a weight that the root keeps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(2))

    def forward(self, x):
        return self.second(self.first(x).relu()) * self.scale


def sharded_job(reshard_root):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    whole, model = Net(), Net()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard_root)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        with gathered(model):
            assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
            for _ in range(2 * rank):
                assert not model.first(x).requires_grad
                assert torch.equal(model(x), whole(x))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        model(x).sum().backward()
        assert model.first.weight.grad is not None
    return [
        part._get_fsdp_state()._fsdp_param_groups[0]._reshard_after_forward
        for part in model.modules()
        if isinstance(part, FSDPModule)
    ]


def test_ranks_need_not_keep_step():
    assert launch(sharded_job, None) == [[False, True, True]] * 2
    assert launch(sharded_job, True) == [[True, True, True]] * 2


def failing_job():
    torch.distributed.init_process_group("gloo")
    model = Net()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    try:
        with gathered(model):
            raise KeyError
    except KeyError:
        return all(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_an_error_inside_leaves_the_model_sharded():
    assert launch(failing_job) == [True, True]


def test_other_models_are_left_alone():
    model = Net()
    with gathered(model):
        assert model(torch.ones(1, 4)).requires_grad, "nothing is switched off"
