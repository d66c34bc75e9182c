"""Speed and memory of a run, in a file of their own."""

from __future__ import annotations

import json

import pytest

from lit_align.callbacks import Timing
from tests.callbacks.toy import Kill, ToyModule, train
from tests.launch import RankError, launch


class Counting(ToyModule):
    """Knows its tokens: ten per step."""

    num_tokens = 0.0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.num_tokens += 10
        self.last_step = self.last_step._replace(metrics={"num_tokens": self.num_tokens})
        return loss


def lines(folder):
    return [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]


class Clock:
    """A second for every batch; a hundred for every validation."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("lit_align.callbacks.timing.time.perf_counter", lambda: self.now)


class Ticking(Counting):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100
        super().validation_step(batch, batch_idx)


def test_means_between_logged_steps_without_validation(tmp_path, monkeypatch):
    train(tmp_path, Timing(), module=Ticking(Clock(monkeypatch)), log_every_n_steps=4, val_check_interval=3)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 4, 8, 12, 16, 20, 24, 26]
    assert {line["seconds_per_step"] for line in found} == {1.0}
    assert {line["tokens_per_second"] for line in found} == {10.0}
    assert all(line["process_bytes"] > 1e6 and "gpu_peak_bytes" not in line for line in found)


def test_a_resumed_run_replaces_the_steps_that_it_takes_anew(tmp_path):
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, Timing(), Kill("on_train_batch_end", 9), module=Counting(), world=1)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 10)), "one step behind the checkpoint"
    before = lines(tmp_path)[:8]
    train(tmp_path, Timing(), module=Counting(), ckpt_path="last")
    found = lines(tmp_path)
    assert found[:8] == before
    assert [line["step"] for line in found] == list(range(1, 27))


def test_a_new_run_begins_a_new_file(tmp_path):
    train(tmp_path, Timing(), max_steps=3)
    train(tmp_path, Timing(), max_steps=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert (tmp_path / "timing.jsonl.old").is_file()
    assert "tokens_per_second" not in lines(tmp_path)[0], "a module that counts no tokens"
