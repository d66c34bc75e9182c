"""The metrics file: exact, whole lines, and cut back to a checkpoint."""

from __future__ import annotations

import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_align.evaluation.jsonl_file import JsonlFile
from lit_align.evaluation.jsonl_logger import JsonlLogger
from tests.callbacks.toy import build_trainer, rows, train


def test_numbers_are_exact(tmp_path):
    logger = JsonlLogger(str(tmp_path))
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": torch.tensor(1 / 3).item(), "d": 7}
    logger.log_metrics(values, step=3)
    logger.log_metrics({"e": torch.tensor(2.5), "f": np.float32(0.1), "epoch": 1}, step=4)
    first, second = logger.file.read()
    assert first == {"step": 4, **values}
    assert second == {"step": 5, "epoch": 1, "e": 2.5, "f": float(np.float32(0.1))}
    assert list(second) == ["step", "epoch", "e", "f"]


def test_what_is_not_finite_comes_back(tmp_path):
    file = JsonlFile(tmp_path / "a.jsonl")
    file.append({"x": math.nan, "y": math.inf, "z": -math.inf})
    (record,) = file.read()
    assert math.isnan(record["x"])
    assert (record["y"], record["z"]) == (math.inf, -math.inf)


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = JsonlLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_hyperparams({"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"beta": 0.1, "type": int}, Namespace(beta=0.1, type=int)])
def test_hyperparameters_stand_beside_it(tmp_path, given):
    logger = JsonlLogger(str(tmp_path))
    logger.log_hyperparams(given)
    assert not list(tmp_path.iterdir()), "a run that is refused before it trains leaves no trace"
    logger.log_metrics({"loss": 1.0}, 0)
    assert json.loads((tmp_path / "hparams.json").read_text()) == {"beta": 0.1, "type": "<class 'int'>"}
    assert len(list(tmp_path.iterdir())) == 2


def test_the_trainer_takes_its_folder_for_that_of_the_run(tmp_path):
    trainer = build_trainer(tmp_path)
    assert trainer.log_dir == str(tmp_path)
    assert trainer.logger.name == "metrics"


def test_every_call_is_a_line(tmp_path):
    train(tmp_path, max_epochs=1, val_check_interval=4)
    logged = rows(tmp_path)
    losses = [row for row in logged if "loss" in row]
    assert [row["step"] for row in losses] == list(range(1, 14))
    assert {row["epoch"] for row in logged} == {0}
    assert [row["step"] for row in logged if "val/loss" in row] == [4, 8, 12]


def test_words_of_any_language_stay_readable(tmp_path):
    file = JsonlFile(tmp_path / "a.jsonl")
    file.append({"text": "Grüße\n\u2028\x85 \r 文"})
    assert file.read() == [{"text": "Grüße\n\u2028\x85 \r 文"}]
    assert "Grüße" in file.path.read_text(encoding="utf-8")
    assert file.path.read_bytes().count(b"\n") == 1


def test_cutting(tmp_path):
    file = JsonlFile(tmp_path / "a.jsonl")
    marks = [file.mark()]
    for number in range(3):
        file.append({"n": number})
        marks.append(file.mark())
    with file.path.open("ab") as raw:
        raw.write(b'{"half": ')
    assert [record["n"] for record in file.read()] == [0, 1, 2]
    assert file.cut(marks[3])
    assert file.mark() == marks[3], "an unfinished line goes"
    assert file.cut(marks[2])
    assert [record["n"] for record in file.read()] == [0, 1]
    assert file.cut(marks[0])
    assert file.read() == []


def test_lines_of_another_run_are_told_apart(tmp_path):
    file, old = JsonlFile(tmp_path / "a.jsonl"), JsonlFile(tmp_path / "a.jsonl.old")
    for number in range(3):
        file.append({"first": number})
        if number == 1:
            mark = file.mark()
    file.start_over()
    for number in range(4):
        file.append({"other": number})
    assert file.cut(mark)
    assert file.read() == [{"first": 0}, {"first": 1}]
    assert old.read() == [{"other": number} for number in range(4)]
    file.start_over()
    file.append({"third": 0})
    file.start_over()
    assert not file.cut(mark)
    assert file.read() == []
    assert old.read() == [{"third": 0}]


def test_starting_over_keeps_one_old_file(tmp_path):
    file = JsonlFile(tmp_path / "a.jsonl")
    file.start_over()
    for number in range(3):
        file.append({"n": number})
        file.start_over()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.old"]
