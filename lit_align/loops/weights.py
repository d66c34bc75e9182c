"""What tells weights apart: a digest of all that training changes."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def weights_digest(module: nn.Module) -> str:
    """A hash of the trainable weights, the same however they are sharded; all ranks call it together."""
    found = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        found.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
        # NumPy would hold on to the memory of gathered weights, which FSDP2 then cannot free.
        copied = whole.detach().to("cpu", copy=True)
        found.update(copied.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
