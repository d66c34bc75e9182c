"""FSDP2: all weights on every rank for a while, so that ranks can run a sharded model without keeping step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

_GATHERED: set[int] = set()
"""Roots whose weights are gathered now."""


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather the weights of a sharded module until the block ends; of any other module, do nothing.

    All ranks enter together. Inside, gradients are off, and each rank may run the model as often as it likes, or
    not at all; the model must not be changed. A block inside such a block does nothing, so ranks may enter it alone.

    Args:
        module: the root of the sharded tree.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if not parts or id(parts[0]) in _GATHERED:
        yield
        return
    root = parts[0]
    # Whatever runs first becomes the root; if a layer did, the next training step would fail.
    root._get_fsdp_state()._lazy_init()
    groups = [group for part in parts for group in _groups(part)]
    with torch.no_grad():
        settings = [group.post_forward_mesh_info for group in groups]
        order = [list(group.comm_ctx.post_forward_order) for group in groups]
        indices = [list(group._post_forward_indices) for group in groups]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        _GATHERED.add(id(root))
        try:
            yield
        finally:
            _GATHERED.remove(id(root))
            for part in parts:
                part.reshard()
            for group, setting, before, own in zip(groups, settings, order, indices, strict=True):
                # What `set_reshard_after_forward` sets; it has no getter.
                group.post_forward_mesh_info = setting
                # The forward passes that the next backward gathers weights for. Those made in here have no
                # backward, and ranks that made different numbers of them would wait for each other for ever.
                group.comm_ctx.post_forward_order[:] = before
                group._post_forward_indices[:] = own


def _groups(part: FSDPModule) -> list[Any]:
    """The groups of parameters that are gathered together; newer versions of torch may have several."""
    state: Any = part._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)
    groups = [state._fsdp_param_group] if several is None else several
    return [group for group in groups if group is not None]
