"""A real method on a stream: passes that end inside an accumulation window, and runs that are cut off anywhere."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import lit_align
from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.data.module import PreferenceDataModule
from tests.data.modules import pair_rows, write

MICRO_BATCHES = 5
"""Of a pass: 18 rows in windows of 7, by 4."""
STEPS = 8
"""Three to a pass, of which the last has one micro-batch: the run ends inside the third pass."""


class Watch(L.Callback):
    """Keeps what every micro-batch gave; ends the run, as a kill would, after so many."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.seen: list[tuple[int, list[int], float, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        record = module.last_step
        rows = record.source_rows.tolist()
        self.seen.append((trainer.global_step, rows, batch.window.examples, record.loss.item()))
        if len(self.seen) == self.last:
            raise InterruptedError


def train(folder: Path, policy: str, watch: Watch, resume: str | None = None, **settings: Any) -> Any:
    """Train on a stream with dropout; a resumed run goes on in the same folder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    folder.mkdir(exist_ok=True)
    rows = write(folder / "rows.jsonl", pair_rows(18))
    data = PreferenceDataModule(rows, streaming=True, stream_buffer=7, batch_size=4)
    module = lit_align.DPO(policy=policy, dropout=True, learning_rate=1e-2)
    L.seed_everything(7)
    trainer = L.Trainer(**{
        "accelerator": "cpu", "max_epochs": -1, "max_steps": STEPS, "accumulate_grad_batches": 2, "logger": False,
        "default_root_dir": str(folder), "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [ExactResume(), RunCheckpoint(every_n_steps=1), watch], **settings,
    })  # fmt: skip
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except InterruptedError:
        return trainer
    assert trainer.global_step == settings.get("max_steps", STEPS)
    return module.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model_dir):
    """A run that nothing interrupts."""
    watch = Watch()
    return train(tmp_path_factory.mktemp("whole"), tiny_model_dir, watch), watch.seen


def test_a_window_that_the_end_of_the_stream_cuts_is_a_step_of_its_own(whole):
    _, seen = whole
    assert [step for step, *_ in seen] == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8]
    for start in range(0, len(seen), MICRO_BATCHES):
        one_pass = seen[start : start + MICRO_BATCHES]
        examples = [len(rows) for _, rows, _, _ in one_pass]
        counts = [sum(examples[n // 2 * 2 : n // 2 * 2 + 2]) for n in range(len(one_pass))]
        assert [count for _, _, count, _ in one_pass] == counts
        rows = sorted(row for _, rows, _, _ in one_pass for row in rows)
        assert len(one_pass) < MICRO_BATCHES or rows == list(range(1, 19))
    first, second = (seen[start : start + MICRO_BATCHES] for start in (0, MICRO_BATCHES))
    assert [rows for _, rows, _, _ in first] != [rows for _, rows, _, _ in second]


@pytest.mark.parametrize("last", range(2, 14))
def test_a_run_that_is_cut_off_after_any_micro_batch_ends_as_if_it_had_not_been(whole, last, tmp_path, tiny_model_dir):
    weights, seen = whole
    killed, resumed = Watch(last), Watch()
    train(tmp_path, tiny_model_dir, killed)
    assert killed.seen == seen[:last]
    ended = train(tmp_path, tiny_model_dir, resumed, resume="last")
    assert resumed.seen == seen[-len(resumed.seen) :]
    assert len(killed.seen) + len(resumed.seen) >= len(seen)
    assert weights.keys() == ended.keys()
    assert all(torch.equal(weights[name], ended[name]) for name in weights)


def test_a_schedule_needs_the_number_of_steps(tmp_path, tiny_model_dir):
    with pytest.raises(ConfigError, match=r"set trainer\.max_steps"):
        train(tmp_path, tiny_model_dir, Watch(), max_epochs=2, max_steps=-1)


def test_the_pass_that_training_ends_in_is_reported(tmp_path, tiny_model_dir, capsys):
    train(tmp_path, tiny_model_dir, Watch(), max_steps=4)
    report = json.loads((tmp_path / "data_report.json").read_text())["train"]
    assert report["read"] == 14, "the window of the step, and one ahead"
    assert "training ended inside this pass of the stream" in " ".join(report["notes"])
    printed = capsys.readouterr().out
    assert printed.count("read, ") == 2, "a whole pass and this one"
