"""What a run leaves about itself: once, killed and resumed, stopped by an error, and in another run's folder."""

from __future__ import annotations

import json
import sys

import pytest

from lit_align.callbacks import DriftAlarm, NonFiniteGuard, RunRecord
from lit_align.callbacks.non_finite_guard import NonFiniteError
from lit_align.data.report import DataReport
from lit_align.evaluation.alarms import data_alarms
from lit_align.evaluation.environment import command_line
from tests.callbacks.test_drift_alarm import Displaced
from tests.callbacks.toy import Kill, ToyData, ToyModule, train
from tests.launch import RankError, launch


def record(folder):
    return json.loads((folder / "run.json").read_text())


def alarms(folder):
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


def test_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/lit_align/__main__.py", "fit", "--name", "two words"])
    train(tmp_path, RunRecord(), max_steps=5)
    found = record(tmp_path)
    assert found["method"] == "ToyModule"
    assert found["settings"]["data"]["batch_size"] == 2
    assert found["settings"]["trainer"]["max_steps"] == 5
    (session,) = found["sessions"]
    assert session["command"] == "lit-align fit --name 'two words'"
    assert (session["from_step"], session["to_step"], session["planned_steps"]) == (0, 5, 5)
    assert (session["outcome"], session["seed"], session["device"], session["processes"]) == ("finished", 11, "CPU", 1)
    assert session["started"] <= session["ended"]
    assert session["versions"]["torch"]


def test_a_killed_and_resumed_run_has_two_sessions(tmp_path):
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, RunRecord(), Kill("on_train_batch_end", 9), world=1)
    (session,) = record(tmp_path)["sessions"]
    assert (session["outcome"], session["ended"], session["to_step"]) == (None, None, None)
    train(tmp_path, RunRecord(), ckpt_path="last")
    first, second = record(tmp_path)["sessions"]
    assert first == session
    assert (second["from_step"], second["to_step"], second["outcome"]) == (8, 26, "finished")


def test_an_error_is_the_outcome(tmp_path):
    with pytest.raises(NonFiniteError):
        train(tmp_path, RunRecord(), NonFiniteGuard(), module=ToyModule(poison={7: float("nan")}))
    (session,) = record(tmp_path)["sessions"]
    assert session["outcome"].startswith("NonFiniteError: the loss or its gradient is not finite at optimiser step ")
    (alarm,) = alarms(tmp_path)
    assert (alarm["name"], alarm["step"]) == ("not_finite", session["to_step"] + 1)
    assert "rows 7 (loss nan)" in alarm["words"]
    assert "lower the learning rate" in alarm["advice"]


def test_a_new_run_in_the_folder_begins_a_record_of_its_own(tmp_path):
    train(tmp_path, RunRecord(), max_steps=2)
    first = record(tmp_path)
    train(tmp_path, RunRecord(), max_steps=3)
    assert record(tmp_path)["run"] != first["run"]
    assert len(record(tmp_path)["sessions"]) == 1
    assert json.loads((tmp_path / "run.json.old").read_text()) == first


def test_a_checkpoint_of_another_run_does_not_go_on_with_the_record_of_this_folder(tmp_path):
    train(tmp_path / "one", RunRecord(), max_steps=4)
    train(tmp_path / "two", RunRecord(), max_steps=2)
    checkpoint = str(tmp_path / "one" / "checkpoints" / "step=4.ckpt")
    train(tmp_path / "two", RunRecord(), max_steps=6, ckpt_path=checkpoint)
    found = record(tmp_path / "two")
    assert found["run"] == record(tmp_path / "one")["run"]
    assert [session["from_step"] for session in found["sessions"]] == [4]


@pytest.mark.parametrize("text", ["{", "[]", '{"sessions": 3}'])
def test_a_damaged_record_makes_way(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    train(tmp_path, RunRecord(), max_steps=2)
    assert record(tmp_path)["sessions"][0]["outcome"] == "finished"
    assert (tmp_path / "run.json.old").read_text() == text


@pytest.mark.filterwarnings("ignore:.*likelihood displacement")
def test_alarms_of_training_are_kept_once_per_episode(tmp_path):
    train(tmp_path, DriftAlarm(window=6), module=Displaced(), limit_val_batches=0)
    (alarm,) = alarms(tmp_path)
    assert (alarm["step"], alarm["name"]) == (6, "displacement")
    assert alarm["words"].startswith("Over the last 6 optimiser steps the chosen answers have become less likely")
    assert "learning_rate" in alarm["advice"]


def test_a_run_without_alarms_says_so(tmp_path):
    train(tmp_path, max_steps=2)
    assert alarms(tmp_path) == []


class Reported(ToyData):
    """Data with a report that has something to say."""

    @property
    def reports(self):
        report = DataReport("pairs.jsonl", "pairs")
        report.read, report.kept = 10, 8
        for row in (3, 4):
            report.drop(row, "the responses are the same")
        report.events["eos_lost"].add(5)
        return {"train": report}


def test_what_the_data_report_finds_is_an_alarm(tmp_path):
    train(tmp_path, RunRecord(), data=Reported(), max_steps=2)
    dropped, lost = alarms(tmp_path)
    assert (dropped["name"], dropped["step"]) == ("data/dropped", 0)
    assert dropped["words"] == "2 of 10 rows of the train data (20.0 %) are not used: the responses are the same."
    assert lost["words"] == "1 of 8 rows of the train data (12.5 %) lost the end of the completion's turn."


def test_few_rows_are_no_alarm():
    report = DataReport("pairs.jsonl", "pairs")
    report.read, report.kept = 1000, 999
    report.drop(3, "empty")
    report.events["eos_lost"].add(5)
    assert data_alarms("train", report.to_dict()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/venv/bin/lit-align", "fit"], "lit-align fit"),
        (["/home/somebody/my script.py", "-v"], "python 'my script.py' -v"),
    ],
)
def test_commands_do_not_tell_where_they_were_given(arguments, line):
    assert command_line(arguments) == line
