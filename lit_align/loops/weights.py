"""What tells weights apart: digests of all that training changes, of references, of models in folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lit_align.loops.store import digest, sha256
from lit_align.references import Reference

LARGE = 1 << 26
"""Bytes of the largest file that `known_folder` reads whole."""
_BLOCKS = 64


def folder_digest(folder: Path) -> str:
    """A hash of the files of a model."""
    return digest({file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()})


def known_folder(folder: Path) -> str:
    """A hash that tells models in folders apart, computed once for files that have not been touched since.

    Of large files it reads a sample, since every judge that is built asks for it: training changes weights all over.
    """
    found = ((file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file())
    return _known_folder(folder.resolve(), tuple((name, about.st_mtime_ns, about.st_size) for name, about in found))


@lru_cache
def _known_folder(folder: Path, _: tuple[tuple[str, int, int], ...]) -> str:
    return digest({file.name: _sampled(file) for file in sorted(folder.iterdir()) if file.is_file()})


def _sampled(file: Path) -> str:
    """A hash of a file, or of blocks all over it and its size."""
    size = file.stat().st_size
    if size <= LARGE:
        return sha256(file)
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for block in range(_BLOCKS):
            opened.seek(size * block // _BLOCKS)
            found.update(opened.read(LARGE // _BLOCKS))
    return found.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """A hash of the trainable weights, the same however they are sharded; all ranks call it together."""
    return _digest((name, weights) for name, weights in module.named_parameters() if weights.requires_grad)


def reference_digest(reference: Reference | None) -> str | None:
    """A hash of all weights of a reference that is a model of its own; all ranks call it together.

    Args:
        reference: of the method.

    Returns:
        None where there is no reference, or one that begins as the policy: the policy's weights in the first round, and
        the rounds after it, which hang on each other, tell it apart; not so a base model that is exchanged meanwhile.
    """
    if reference is None or reference.is_initial:
        return None
    weights = list(reference.named_parameters())
    return _digest(weights) if weights else None


@torch.no_grad()
def _digest(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    found = hashlib.sha256()
    for name, parameter in weights:
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        found.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
        # NumPy would hold on to the memory of gathered weights, which FSDP2 then cannot free.
        copied = whole.detach().to("cpu", copy=True)
        found.update(copied.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
