"""Reference log-probabilities computed once and kept on disk: no second model and no second forward pass.

One pass over the data costs what an online reference costs in one epoch, so this pays from the second epoch or run on,
and in memory at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_align.core.batch import Example, Layout, Rows
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from lit_align.core.outputs import SequenceLogps
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.references.base import Reference

_BATCH = 16
_CHECKED = 4
_TOLERANCE = 1e-3


class HasExamples(Protocol):
    """What the data module offers: its tokenised examples, what identifies them, and a place for cached values."""

    def reference_splits(self) -> list[str]:
        """Names of the splits that training and validation read."""

    def examples(self, split: str) -> Sequence[Example]:
        """The tokenised examples of a split."""

    def fingerprint(self, split: str) -> str:
        """Changes whenever rows, tokenizer, template or lengths do."""

    def set_reference_logps(self, split: str, values: list[list[float]]) -> None:
        """Attach a summed log-probability to every response of every example."""


class Precomputed(Reference):
    """Log-probabilities of every response under the initial policy, cached on disk or read from TRL's `ref_*` columns.

    Args:
        cache_dir: folder of the cache; None: `reference_logps` in `$LIT_ALIGN_CACHE` or the user's cache folder.
    """

    def __init__(self, cache_dir: str | None = None) -> None:
        super().__init__()
        user = os.environ.get("LIT_ALIGN_CACHE") or "~/.cache/lit_align"
        self.cache_dir = Path(cache_dir or f"{user}/reference_logps").expanduser()

    def token_logps(self, rows: Rows) -> Tensor:
        """Refuse: there is no model to score `rows` with."""
        raise ConfigError(
            "these rows have no cached reference log-probabilities",
            got="reference: precomputed",
            fix="use reference: auto; streamed data and KTO's mismatched completions, which change with every "
            "shuffle, cannot be cached",
        )

    def logps(self, rows: Rows, cached: Tensor | None = None) -> SequenceLogps:
        """The cached sums [M], nats.

        Raises:
            ConfigError: the batch came without them.
        """
        if cached is None:
            self.token_logps(rows)
        assert cached is not None
        return SequenceLogps(cached, rows.response_lengths)

    @torch.no_grad()
    def fill(self, data: HasExamples, spec: PolicySpec, device: torch.device, layout: Layout) -> None:
        """Score every example that has no value yet, or read the values that an earlier run left on disk.

        A cache is trusted only after some of its rows have been scored again.

        Args:
            data: the data module.
            spec: how the policy is built; the reference is the same without adapters.
            device: where to score.
            layout: layout of the rows.

        Raises:
            ConfigError: the cache on disk disagrees with the model.
        """
        splits = [s for s in data.reference_splits() if any(e.reference_logps is None for e in data.examples(s))]
        if not splits:
            return
        scorer = Scorer(build_policy(dataclasses.replace(spec, lora=None), device)).to(device).eval()
        weights = _hash_weights(scorer)
        for split in splits:
            examples = data.examples(split)
            key = hashlib.sha256(f"{weights}:{data.fingerprint(split)}:{spec.dtype}".encode()).hexdigest()
            path = self.cache_dir / f"{key[:32]}.safetensors"
            if path.exists():
                values = _split(load_file(path)["logps"], examples)
                _check(scorer, examples, values, layout, path)
            else:
                values = _score(scorer, examples, layout)
                _save(values, path)
            data.set_reference_logps(split, values)


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _score(scorer: Scorer, examples: Sequence[Example], layout: Layout) -> list[list[float]]:
    """Score all examples, each rank a share of them, in batches of similar length."""
    rank, world = 0, 1
    if torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device = next(scorer.parameters()).device
    order = sorted(range(len(examples)), key=lambda i: sum(map(len, examples[i].ids)))[rank::world]
    mine: dict[int, list[float]] = {}
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        rows = move_data_to_device(build_rows([examples[i] for i in chosen], layout), device)
        sums = scorer.sequence_logps(rows).sums.cpu()
        parts = sums.split([len(examples[i].ids) for i in chosen])
        mine.update(zip(chosen, (part.tolist() for part in parts), strict=True))
    if world > 1:
        shares: list[dict[int, list[float]]] = [{} for _ in range(world)]
        torch.distributed.all_gather_object(shares, mine)
        mine = {index: values for share in shares for index, values in share.items()}
    return [mine[i] for i in range(len(examples))]


def _split(flat: Tensor, examples: Sequence[Example]) -> list[list[float]]:
    return [part.tolist() for part in flat.split([len(example.ids) for example in examples])]


def _check(scorer: Scorer, examples: Sequence[Example], cached: list[list[float]], layout: Layout, path: Path) -> None:
    picked = range(0, len(examples), max(1, len(examples) // _CHECKED))
    fresh = _score(scorer, [examples[i] for i in picked], layout)
    worst = max(
        abs(a - b) / max(1.0, abs(b))
        for i, new in zip(picked, fresh, strict=True)
        for a, b in zip(cached[i], new, strict=True)
    )
    if worst > _TOLERANCE:
        raise ConfigError(
            "cached reference log-probabilities are not those of this model",
            got=f"{path}: off by {worst:.2g} (relative)",
            fix="delete the file",
        )


def _save(values: list[list[float]], path: Path) -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"logps": torch.tensor([v for row in values for v in row], dtype=torch.float64)}, temporary)
    os.replace(temporary, path)
