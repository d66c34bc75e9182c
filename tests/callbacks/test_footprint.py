"""What a run costs, also of one that was killed and resumed."""

from __future__ import annotations

import json
import time

import pytest
from lightning.pytorch import Callback

from lit_align.callbacks import Footprint, RunCheckpoint
from lit_align.callbacks.footprint import largest_resident_set
from tests.callbacks.toy import train


class Clock(Callback):
    """A second for every batch, a hundred for every batch of a validation, and a crash where it is asked for."""

    def __init__(self, monkeypatch, crash_at: int = -1) -> None:
        self.now = 0.0
        self.crash_at = crash_at
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def on_train_batch_end(self, trainer, *args) -> None:
        self.now += 1
        if trainer.global_step == self.crash_at:
            raise InterruptedError

    def on_validation_batch_end(self, *args) -> None:
        self.now += 100


def found(folder) -> dict:
    return json.loads((folder / "footprint.json").read_text())


def test_steps_seconds_without_validation_and_memory(tmp_path, monkeypatch):
    train(tmp_path, Clock(monkeypatch), Footprint(), max_steps=20)
    footprint = found(tmp_path)
    assert (footprint["steps"], footprint["seconds"]) == (20, 20.0)
    assert (footprint["memory"], footprint["device"]) == ("process", "CPU")
    assert footprint["peak_bytes"] == pytest.approx(largest_resident_set(), rel=0.2)


def test_a_resumed_run_counts_what_led_up_to_its_end(tmp_path, monkeypatch):
    with pytest.raises(InterruptedError):
        train(tmp_path, Clock(monkeypatch, crash_at=7), Footprint(), max_steps=20)
    assert not (tmp_path / "footprint.json").exists(), "the run has not come to its end"
    # The seventh step was lost with the crash.
    train(tmp_path, Clock(monkeypatch), Footprint(), max_steps=20, ckpt_path="last")
    assert (found(tmp_path)["steps"], found(tmp_path)["seconds"]) == (20, 20.0)


def test_a_run_without_a_step_left_writes_what_its_checkpoint_knows(tmp_path, monkeypatch):
    checkpoint = RunCheckpoint(every_n_steps=0)
    train(tmp_path, Clock(monkeypatch), Footprint(), max_steps=4, checkpoint=checkpoint)
    (tmp_path / "footprint.json").unlink()
    train(tmp_path, Clock(monkeypatch), Footprint(), max_steps=4, ckpt_path="last")
    assert (found(tmp_path)["steps"], found(tmp_path)["seconds"]) == (4, pytest.approx(4, abs=1))


def test_a_run_that_goes_on_has_not_come_to_its_end(tmp_path, monkeypatch):
    train(tmp_path, Clock(monkeypatch), Footprint(), max_steps=4)
    with pytest.raises(InterruptedError):
        train(tmp_path, Clock(monkeypatch, crash_at=6), Footprint(), max_steps=8, ckpt_path="last")
    assert not (tmp_path / "footprint.json").exists()


def test_memory_is_what_was_held_at_most():
    held = bytearray(b"x" * (100 << 20))
    peak = largest_resident_set()
    assert peak > len(held)
    del held
    assert largest_resident_set() >= peak


def test_an_object_that_has_measured_a_run_begins_anew(tmp_path, monkeypatch):
    footprint = Footprint()
    train(tmp_path / "first", Clock(monkeypatch), footprint, max_steps=20)
    train(tmp_path / "second", Clock(monkeypatch), footprint, max_steps=5)
    assert (found(tmp_path / "second")["steps"], found(tmp_path / "second")["seconds"]) == (5, 5.0)
