"""Checkpoints of sharded models: a folder to which every rank writes its own part.

The folder holds torch's distributed checkpoint (weights and optimiser state) and `meta.pt` (all the rest, written by
rank 0). All ranks must see the same file system. Torch describes the parts in a pickle; like everything else in a
checkpoint it is read without running any code that it may hold.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as description
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load as load_parts

from lit_align.core.checkpoint_io import is_complete
from lit_align.core.errors import ConfigError

META = "meta.pt"
_WEIGHTS = "state_dict"
_OTHER_CLASSES = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    # Where Python 3.13 says that they live.
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
"""What a checkpoint's description holds besides the classes made for it, and dtypes."""


def split(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lightning's checkpoint in two: what every rank has a part of, and what rank 0 writes alone."""
    meta = dict(checkpoint)
    parts = {_WEIGHTS: meta.pop(_WEIGHTS)}
    parts |= {f"optimizer_{index}": state for index, state in enumerate(meta.pop("optimizer_states", []))}
    return parts, meta


def load(parts: dict[str, Any], folder: Path, *, alone: bool = False) -> None:
    """Read a sharded checkpoint into the tensors of `parts`, in place; other entries are replaced.

    Args:
        parts: what to read; on ranks of a group each its own shards.
        folder: the checkpoint.
        alone: read without a process group.

    Raises:
        ConfigError: the checkpoint holds more than tensors and plain types.
    """
    with _refusing_code(folder), warnings.catch_warnings():
        # That it reads alone is no news to a reader that asked for it.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load_parts(parts, storage_reader=_Reader(folder), planner=_Planner(), no_dist=alone)


def saved_names(folder: Path) -> set[str]:
    """Names of the weights in a sharded checkpoint."""
    return {path[1] for path in _paths(folder).values() if path[0] == _WEIGHTS}


def read_sharded(folder: Path, *, weights_only: bool = False) -> dict[str, Any]:
    """A sharded checkpoint as a single process would have written it; needs no process group.

    Args:
        folder: the checkpoint.
        weights_only: leave the optimisers' state aside, which is twice the size of the weights.

    Returns:
        Lightning's checkpoint: `state_dict`, `optimizer_states` and the rest.

    Raises:
        ConfigError: the folder is not a complete checkpoint.
    """
    if not (folder.is_dir() and is_complete(folder)):
        raise ConfigError(
            "this is not a sharded checkpoint that was written to its end",
            got=str(folder),
            fix="give a folder that the strategy fsdp2 has written, or an earlier one if the last was cut off",
        )
    described = _metadata(folder).state_dict_metadata
    paths = {key: path for key, path in _paths(folder).items() if not weights_only or path[0] == _WEIGHTS}
    flat = {key: _placeholder(described[key]) for key in paths}
    load(flat, folder, alone=True)
    parts = _unflatten({path: flat[key] for key, path in paths.items()})
    checkpoint: dict[str, Any] = torch.load(folder / META, weights_only=True)
    checkpoint[_WEIGHTS] = parts[_WEIGHTS]
    if not weights_only:
        optimizers = sorted(name for name in parts if name != _WEIGHTS)
        checkpoint["optimizer_states"] = [by_number(parts[name]) for name in optimizers]
    return checkpoint


def by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with running numbers for the parameters' names, as torch's optimisers keep it."""
    groups = state["param_groups"]
    numbers = {name: number for number, name in enumerate(n for group in groups for n in group["params"])}
    return _renamed(state, numbers)


def by_name(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `by_number`: parameters take their names from `like`, place by place in the groups.

    Args:
        state: an optimiser's state with any keys for parameters.
        like: state of an optimiser with the same groups, keyed by name.
    """
    pairs = zip(state["param_groups"], like["param_groups"], strict=True)
    names = {old: new for theirs, mine in pairs for old, new in zip(theirs["params"], mine["params"], strict=True)}
    return _renamed(state, names)


def _renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    return {
        "state": {names[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }


def _paths(folder: Path) -> dict[str, tuple[Any, ...]]:
    """For each flat key of a distributed checkpoint, where it stood in the nested dictionary."""
    planner_data = _metadata(folder).planner_data
    assert planner_data is not None, "written with torch's default planner"
    return dict(planner_data)


def _metadata(folder: Path) -> description.Metadata:
    with _refusing_code(folder):
        return _Reader(folder).read_metadata()


def _placeholder(entry: description.STORAGE_TYPES) -> Any:
    """What torch reads a saved entry into: a tensor of its shape, anything else for other objects."""
    if isinstance(entry, description.TensorStorageMetadata):
        return torch.empty(entry.size, dtype=entry.properties.dtype)
    return None


def _unflatten(entries: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    """Nested dictionaries and lists from paths; where a path has numbers, there was a list."""
    nested: dict[Any, Any] = {}
    for path, value in entries.items():
        place = nested
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = value
    return {name: _with_lists(value) for name, value in nested.items()}


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inside = {key: _with_lists(entry) for key, entry in value.items()}
    return [inside[number] for number in sorted(inside)] if all(isinstance(key, int) for key in inside) else inside


# -------------------------------------------------------------------- reading without running code


class _Reader(FileSystemReader):
    """Reads the description of a checkpoint only if it is made of what torch describes checkpoints with."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> description.Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            _DescriptionUnpickler(file).load()
        return super().read_metadata(*args, **kwargs)


class _Planner(DefaultLoadPlanner):
    """Takes entries that are not tensors only if `torch.load` would take them with `weights_only`."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


class _DescriptionUnpickler(pickle.Unpickler):
    """Knows the classes of a checkpoint's description and no others."""

    def find_class(self, module: str, name: str) -> Any:
        of_description = module == description.__name__ and isinstance(getattr(description, name, None), type)
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (of_description or dtype or (module, name) in _OTHER_CLASSES):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


@contextmanager
def _refusing_code(folder: Path) -> Iterator[None]:
    try:
        yield
    except (pickle.UnpicklingError, CheckpointException) as error:
        # Torch gathers what went wrong on all ranks.
        causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        refused = next((cause for cause in causes if isinstance(cause, pickle.UnpicklingError)), None)
        if refused is None:
            raise
        raise ConfigError(
            "the checkpoint holds Python objects that could run code when they are read",
            got=f"{folder}: {str(refused).splitlines()[0]}",
            fix="use a checkpoint of lit-align",
        ) from refused
