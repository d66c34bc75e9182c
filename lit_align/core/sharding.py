"""FSDP2: which parameters are sharded together."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


def shard(scorer: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a scorer over `mesh`: every decoder layer by itself, all the rest (embeddings, norm, head) at the root.

    The root is the scorer, whose `forward` runs decoder and head, so FSDP's own hooks gather the head's weight;
    reading it outside of them would give a wrong gradient without an error.
    """
    names = {
        name for module in scorer.modules() for name in (getattr(module, "_no_split_modules", None) or ())
    }
    for module in scorer.modules():
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    fully_shard(scorer, mesh=mesh)


def reshard(scorer: nn.Module) -> None:
    """Free gathered parameters, so that an edit in place reaches the shards and is not lost; no-op if unsharded."""
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
