"""Checkpoint files that are either whole or absent, whenever the process is killed."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from lit_align.core.errors import ConfigError

_TEMPORARY = ".tmp"
_NAMES = "step=*.ckpt"
# What a sharded checkpoint's folder holds once its last file is written.
_SHARDED_FILES = (".metadata", "meta.pt")


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its final name and renames it when it is on disk; reads plain types only.

    Lightning's own writer collects the whole file in memory, and stages it in the system's temporary folder,
    from where a rename may be a copy. Here the file streams to the disk that it stays on.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; until that is done, `path` keeps its former content.

        Args:
            checkpoint: tensors and plain types.
            path: a file; its folder is made if need be.
            storage_options: not used.
        """
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary(final)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
            publish(partial, final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: str | torch.device | Callable[..., Any] | None = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint, by default without running any code that it may hold.

        Args:
            path: the file, or the folder of a sharded checkpoint.
            map_location: where tensors go.
            weights_only: False also reads arbitrary Python objects; only for files that you trust.

        Raises:
            ConfigError: the file is missing, cut short, or holds more than tensors and plain types.
        """
        if not is_complete(path):
            found = "no such file" if not Path(path).exists() else "a file that was not written to its end"
            raise ConfigError(
                "the checkpoint cannot be read",
                got=f"{path}: {found}",
                fix="give an existing checkpoint, or --ckpt_path last for the newest complete one of the run",
            )
        if Path(path).is_dir():
            # Here, since that module builds on this one.
            from lit_align.core.sharded_checkpoint import read_sharded

            return read_sharded(Path(path))
        try:
            checkpoint: dict[str, Any] = torch.load(
                path, map_location=map_location, weights_only=weights_only is not False
            )
        except pickle.UnpicklingError as error:
            raise ConfigError(
                "the checkpoint holds Python objects that could run code when they are read",
                got=f"{path}: {str(error).splitlines()[0]}",
                fix="use a checkpoint of lit-align; if you trust this one, pass weights_only=False to the trainer",
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if it is there."""
        discard(path)


def temporary(path: str | Path) -> Path:
    """Where to write what shall become `path`: in the same folder, so that a rename is enough."""
    path = Path(path)
    return path.with_name(path.name + _TEMPORARY)


def publish(partial: Path, final: Path) -> None:
    """Give a written file or folder its final name, once all of it is on disk."""
    for part in [*partial.rglob("*"), partial]:
        _sync(part)
    if final.is_dir():
        discard(final)
    os.replace(partial, final)
    _sync(final.parent)


def discard(path: str | Path) -> None:
    """Delete a checkpoint, if it is there; a folder stops being one before its first file goes."""
    path = Path(path)
    if path.is_dir():
        # Not the name under which a successor may stand ready.
        doomed = temporary(path.with_name(path.name + ".old"))
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def remove_stale(folder: str | Path) -> None:
    """Delete what killed writers have left in `folder`."""
    for left in Path(folder).glob(f"*{_TEMPORARY}"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def set_aside(folder: str | Path, keep: Collection[str] = (), spare: Path | None = None) -> Path | None:
    """Move checkpoints of `folder` to `<folder>.old`, in place of those that stand there; other files stay.

    The newest complete one goes last: until then it is still found.

    Args:
        folder: of the checkpoints.
        keep: names of checkpoints that stay.
        spare: a checkpoint that nothing may take the place of; if it lies in `<folder>.old`, another name is taken.

    Returns:
        Where they went; None if there is no complete one to move.
    """
    folder = Path(folder)
    leaving = [path for path in folder.glob(_NAMES) if path.name not in keep]
    newest = max(filter(is_complete, leaving), key=_age, default=None)
    if newest is None:
        return None
    old = folder.with_name(folder.name + ".old")
    if spare is not None and spare.parent == old:
        old = folder.with_name(folder.name + ".older")
    old.mkdir(exist_ok=True)
    remove_stale(old)
    for path in old.glob(_NAMES):
        discard(path)
    for path in sorted(leaving, key=lambda path: path == newest):
        os.replace(path, old / path.name)
    _sync(old)
    _sync(folder)
    return old


def copy_checkpoint(source: Path, target: Path) -> Path:
    """Copy a checkpoint, one file or a sharded folder, to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        return shutil.copytree(source, target)
    return shutil.copyfile(source, target)


def is_complete(path: str | Path) -> bool:
    """Whether a checkpoint, one file or a sharded folder, was written to its end.

    `torch.save` writes zip archives, whose directory stands at the end of the file.
    """
    path = Path(path)
    if path.is_dir():
        metadata, meta = (path / name for name in _SHARDED_FILES)
        return metadata.is_file() and metadata.stat().st_size > 0 and is_complete(meta)
    return path.is_file() and zipfile.is_zipfile(path)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint `step=*.ckpt` in `folder`, if there is one."""
    complete = [path for path in Path(folder).glob(_NAMES) if is_complete(path)]
    return max(complete, key=_age, default=None)


def _age(path: Path) -> tuple[int, int]:
    """Sorts by time; by step where a file system is coarse."""
    step = path.stem.removeprefix("step=")
    return path.stat().st_mtime_ns, int(step) if step.isdigit() else -1


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
