"""Checkpoint files are whole or absent, and reading them runs no code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from lit_align.core.checkpoint_io import (
    AtomicCheckpointIO,
    discard,
    is_complete,
    newest_checkpoint,
    publish,
    remove_stale,
    set_aside,
    temporary,
)
from lit_align.core.errors import ConfigError
from tests.launch import RankError, launch


@pytest.fixture
def io():
    return AtomicCheckpointIO()


def test_what_is_saved_comes_back(io, tmp_path):
    saved = {"weights": torch.randn(3), "nested": {"numbers": [1, 2.5, None, True, "text"]}}
    io.save_checkpoint(saved, tmp_path / "new folder" / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "new folder" / "a.ckpt")
    assert torch.equal(loaded["weights"], saved["weights"])
    assert loaded["nested"] == saved["nested"]
    assert os.listdir(tmp_path / "new folder") == ["a.ckpt"]


def test_the_file_is_on_disk_before_it_gets_its_name(io, tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_sync(descriptor)

    def replace(source, target):
        events.append("renamed")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    io.save_checkpoint({}, tmp_path / "a.ckpt")
    assert events == ["a.ckpt.tmp", "renamed", tmp_path.name]


def killed_while_writing(path):
    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = lambda checkpoint, file: (file.write(b"PK half"), file.flush(), die())
    AtomicCheckpointIO().save_checkpoint({"new": 1}, path)


def test_a_killed_writer_leaves_the_old_file(io, tmp_path):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({"old": 1}, path)
    with pytest.raises(RankError, match="died"):
        launch(killed_while_writing, path, world=1)
    assert io.load_checkpoint(path) == {"old": 1}
    assert temporary(path).exists()
    remove_stale(tmp_path)
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_failed_write_leaves_nothing(io, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        io.save_checkpoint({}, tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999])
def test_a_file_cut_short_is_refused(io, tmp_path, kept):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({"weights": torch.randn(1000)}, path)
    assert is_complete(path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert not is_complete(path)
    with pytest.raises(ConfigError, match="not written to its end"):
        io.load_checkpoint(path)


def test_a_missing_file_is_named(io, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.ckpt: no such file"):
        io.load_checkpoint(tmp_path / "nowhere.ckpt")


class Evil:
    def __reduce__(self):
        return (os.putenv, ("LIT_ALIGN_TEST", "ran"))


def test_code_in_a_checkpoint_does_not_run(io, tmp_path):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({"x": Evil()}, path)
    with pytest.raises(ConfigError, match="could run code") as caught:
        io.load_checkpoint(path)
    assert str(path) in caught.value.got
    io.load_checkpoint(path, weights_only=False)


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        if name.endswith(".pt"):
            torch.save({}, path / name)
        else:
            (path / name).write_bytes(b"content")
    return path


def test_sharded_folders_are_complete_with_their_last_file(tmp_path):
    assert is_complete(folder(tmp_path / "a", "__0_0.distcp", ".metadata", "meta.pt"))
    assert not is_complete(folder(tmp_path / "b", "__0_0.distcp", ".metadata"))
    assert not is_complete(folder(tmp_path / "c", "__0_0.distcp", "meta.pt"))


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    final = folder(tmp_path / "step=1.ckpt", "old")
    publish(folder(temporary(final), "new"), final)
    assert os.listdir(final) == ["new"]
    assert os.listdir(tmp_path) == ["step=1.ckpt"]


def test_discarding_is_idempotent(tmp_path):
    for path in (tmp_path / "a", folder(tmp_path / "b", "c")):
        discard(path)
        discard(path)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_checkpoint_from_the_moment_it_is_discarded(tmp_path, monkeypatch):
    """A kill in the middle of deleting must not leave something that looks whole."""
    path = folder(tmp_path / "step=1.ckpt", ".metadata", "meta.pt", "__0_0.distcp")

    def interrupted(doomed, ignore_errors=False):
        if Path(doomed).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        discard(path)
    monkeypatch.undo()
    assert not path.exists()
    remove_stale(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moves", [1, 2])
def test_setting_aside_loses_nothing_when_it_is_cut_short(io, tmp_path, monkeypatch, moves):
    """Until its last step, the newest checkpoint is still the one to go on from."""
    folder, real_replace = tmp_path / "checkpoints", os.replace
    for step in (2, 4, 6):
        io.save_checkpoint({"step": step}, folder / f"step={step}.ckpt")
    done = []

    def replace(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(source)
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        set_aside(folder)
    monkeypatch.undo()
    assert newest_checkpoint(folder) == folder / "step=6.ckpt"
    assert set_aside(folder) == tmp_path / "checkpoints.old"
    assert newest_checkpoint(folder) is None
    assert newest_checkpoint(tmp_path / "checkpoints.old").name == "step=6.ckpt"


def test_nothing_is_set_aside_where_nothing_is_complete(tmp_path):
    assert set_aside(tmp_path / "nowhere") is None
    (tmp_path / "step=2.ckpt").write_bytes(b"half")
    assert set_aside(tmp_path) is None
    assert (tmp_path / "step=2.ckpt").exists()
