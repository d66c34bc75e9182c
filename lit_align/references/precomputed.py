"""Reference log-probabilities computed once and kept on disk: no second model and no second forward pass.

One pass over the data costs what an online reference costs in one epoch, so this pays from the second epoch or run on,
and in memory at once. The pass itself needs the whole model on every device, also under FSDP2: each rank scores a
share of the data without sharding, and frees the model before training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_align.core.batch import Example, Layout, Rows
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from lit_align.core.outputs import SequenceLogps
from lit_align.core.policy import PolicySpec, load_base
from lit_align.references.base import Reference

T = TypeVar("T")
Values = list[list[float]]
"""For each example, the summed log-probability of each of its responses, nats."""

_BATCH = 16
_CHECKED = 4
_TOLERANCE = {"32-true": 1e-3, "64-true": 1e-3}
_LOW_TOLERANCE = 2e-2
"""Relative error to allow for when rows are scored again; in 16 bits other neighbours in a batch round otherwise."""


@runtime_checkable
class HasExamples(Protocol):
    """What the data module offers: its tokenised examples, what identifies them, and a place for cached values."""

    def reference_splits(self) -> list[str]:
        """Names of the splits that the stage reads and whose responses can be scored."""

    def examples(self, split: str) -> Sequence[Example]:
        """The tokenised examples of a split."""

    def fingerprint(self, split: str) -> str:
        """Changes whenever rows, tokenizer, template or lengths do."""

    def set_reference_logps(self, split: str, values: Values) -> None:
        """Attach a summed log-probability to every response of every example."""


class Precomputed(Reference):
    """Log-probabilities of every response under the initial policy, cached on disk or read from TRL's `ref_*` columns.

    Args:
        cache_dir: folder of the cache; None: `reference_logps` in `$LIT_ALIGN_CACHE` or the user's cache folder. Only
            rank 0 reads and writes it.
    """

    def __init__(self, cache_dir: str | None = None) -> None:
        super().__init__()
        user = os.environ.get("LIT_ALIGN_CACHE") or "~/.cache/lit_align"
        self.cache_dir = Path(cache_dir or f"{user}/reference_logps").expanduser()

    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Refuse: there is no model to score `rows` with."""
        raise ConfigError(
            "these rows have no cached reference log-probabilities",
            got="reference: precomputed",
            fix="use reference: auto; streamed data and KTO's mismatched completions, which change with every "
            "shuffle, cannot be cached",
        )

    def logps(self, rows: Rows, cached: Tensor | None = None, *, whole: bool = False) -> SequenceLogps:
        """The cached sums [M], nats; of single tokens nothing is known.

        Raises:
            ConfigError: the batch came without them.
        """
        if cached is None:
            self.token_logps(rows)
        assert cached is not None
        return SequenceLogps(cached, rows.response_lengths)

    @torch.no_grad()
    def fill(
        self, data: HasExamples, spec: PolicySpec, device: torch.device, layout: Layout, precision: Precision
    ) -> None:
        """Score every example that has no value yet, or take the values that an earlier run left on disk.

        A cache is trusted only after some of its rows have been scored again. All ranks must call this together; what
        to do is decided by rank 0 alone, so that folders that differ between machines cannot part the ranks.

        Args:
            data: the data module.
            spec: how the policy is built; the reference is the same without adapters.
            device: where to score.
            layout: layout of the rows.
            precision: what the policy's forward pass runs in; the reference's rounding errors have to be the same.

        Raises:
            ConfigError: the cache on disk disagrees with the model.
        """
        splits = _from_rank_zero(_unscored(data) if _rank() == 0 else [])
        if not splits:
            return
        scorer = _build(spec, device, precision)
        weights = _hash_weights(scorer) if _rank() == 0 else ""
        tolerance = _TOLERANCE.get(precision.precision, _LOW_TOLERANCE)
        if spec.dtype in ("bfloat16", "float16", "auto") or spec.quantization is not None:
            tolerance = _LOW_TOLERANCE
        with precision.forward_context():
            for split in splits:
                examples = data.examples(split)
                path = self._path(weights, data.fingerprint(split), precision, spec)
                values = _from_rank_zero(_load(path, examples) if _rank() == 0 else None)
                if values is None:
                    values = _score(scorer, examples, layout, f"reference log-probabilities of {split}")
                    _save(values, path)
                else:
                    _check(scorer, examples, values, layout, path, tolerance)
                data.set_reference_logps(split, values)

    def _path(self, weights: str, data: str, precision: Precision, spec: PolicySpec) -> Path:
        """The file of what is scored, by which weights, in which precision."""
        key = f"{weights}:{data}:{precision.precision}:{spec.dtype}:{spec.quantization}"
        return self.cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _from_rank_zero(value: T) -> T:
    """Rank 0's `value`, on every rank."""
    if not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _unscored(data: HasExamples) -> list[str]:
    return [s for s in data.reference_splits() if any(e.reference_logps is None for e in data.examples(s))]


def _build(spec: PolicySpec, device: torch.device, precision: Precision) -> Scorer:
    """The policy without adapters, its weights converted as those of the run."""
    spec = dataclasses.replace(spec, lora=None)
    # Loading may draw random numbers; a run must not depend on where its reference comes from.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), precision.module_init_context():
        scorer = Scorer(load_base(spec, device)).requires_grad_(False)
    converted = precision.convert_module(scorer).to(device).eval()
    assert isinstance(converted, Scorer)
    return converted


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _score(scorer: Scorer, examples: Sequence[Example], layout: Layout, what: str = "") -> Values:
    """Score all examples, each rank a share of them, in batches of similar length; `what` names a progress bar."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    device = next(scorer.parameters()).device
    lengths = [sum(map(len, example.ids)) for example in examples]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)[_rank() :: world]
    mine: dict[int, list[float]] = {}
    starts = range(0, len(order), _BATCH)
    for start in track(starts, what, transient=True, disable=not what or _rank() != 0):
        chosen = [(i, examples[i]) for i in order[start : start + _BATCH]]
        rows = move_data_to_device(build_rows([example for _, example in chosen], layout), device)
        parts = scorer.sequence_logps(rows).sums.cpu().split([len(example.ids) for _, example in chosen])
        mine.update((i, part.tolist()) for (i, _), part in zip(chosen, parts, strict=True))
    if world > 1:
        shares: list[dict[int, list[float]]] = [{} for _ in range(world)]
        torch.distributed.all_gather_object(shares, mine)
        mine = {index: values for share in shares for index, values in share.items()}
    return [mine[i] for i in range(len(examples))]


def _load(path: Path, examples: Sequence[Example]) -> Values | None:
    """The values in a file; None where there is no file or not one of these examples."""
    sizes = [len(example.ids) for example in examples]
    try:
        flat = load_file(path)["logps"]
    except (OSError, SafetensorError, KeyError):
        return None
    if flat.shape != (sum(sizes),):
        return None
    return [part.tolist() for part in flat.split(sizes)]


def _check(
    scorer: Scorer, examples: Sequence[Example], cached: Values, layout: Layout, path: Path, tolerance: float
) -> None:
    """Score some rows again; all ranks see the same values and come to the same verdict."""
    picked = range(0, len(examples), max(1, len(examples) // _CHECKED))
    fresh = _score(scorer, [examples[i] for i in picked], layout)
    worst = max(
        abs(a - b) / max(1.0, abs(b))
        for i, new in zip(picked, fresh, strict=True)
        for a, b in zip(cached[i], new, strict=True)
    )
    # Negated, so that values that are not numbers fail too.
    if not worst <= tolerance:
        raise ConfigError(
            "cached reference log-probabilities are not those of this model",
            got=f"{path}: off by {worst:.2g} (relative)",
            fix="delete the file",
        )


def _save(values: Values, path: Path) -> None:
    """Keep values for the next run, on rank 0; a full or read-only disk costs the cache and not this run."""
    if _rank() != 0:
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logps": torch.tensor([v for row in values for v in row], dtype=torch.float64)}, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        rank_zero_warn(f"reference log-probabilities could not be kept in {path.parent}: {error}")
