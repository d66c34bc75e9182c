"""FSDP2: which parameters are sharded together, and how to reach them between two steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


def shard(scorer: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a scorer over `mesh`: every decoder layer by itself, all the rest (embeddings, norm, head) at the root.

    The root is the scorer, whose `forward` runs decoder and head, so FSDP's own hooks gather the head's weight;
    reading it outside of them would give a wrong gradient without an error.

    Args:
        scorer: a scorer whose weights are loaded; afterwards each rank holds its share of them.
        mesh: one-dimensional, over all ranks.
    """
    tied = _tied(scorer)
    if mesh.device_type != "cpu" and any(hasattr(parameter, "quant_state") for parameter in scorer.parameters()):
        rank_zero_warn(
            "Sharding 4-bit weights is exact on CPUs and untested on GPUs: compare the first loss with that of "
            "trainer.strategy: ddp, which serves where the 4-bit model fits on one GPU."
        )
    # From the inside out: a group takes what is not yet in another.
    for layer in reversed(list(decoder_layers(scorer))):
        fully_shard(layer, mesh=mesh)
    # A root stays gathered between forward and backward. A frozen model has no backward pass to wait for; and of a
    # model with adapters PEFT switches `requires_grad` off and on around the reference's forward pass, which has
    # to reach the shards.
    trained_whole = all(parameter.requires_grad for parameter in scorer.parameters())
    fully_shard(scorer, mesh=mesh, reshard_after_forward=None if trained_whole else True)
    assert _tied(scorer) == tied, "sharding separated tied embeddings"


def decoder_layers(scorer: nn.Module) -> Iterator[nn.Module]:
    """The modules that the architecture says must not be split: its decoder layers, outer ones first."""
    names = {name for module in scorer.modules() for name in (getattr(module, "_no_split_modules", None) or ())}
    return (module for module in scorer.modules() if type(module).__name__ in names)


def reshard(scorer: nn.Module) -> None:
    """Free gathered parameters, so that an edit in place reaches the shards and is not lost; no-op if unsharded."""
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _tied(scorer: nn.Module) -> bool:
    """Whether the head's weight is the embedding's."""
    model: Any = getattr(scorer, "model", scorer)
    if not hasattr(model, "get_input_embeddings"):
        return False
    head = model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is model.get_input_embeddings().weight
