"""The data report: what it counts, says, saves and restores."""

from __future__ import annotations

import json

from lit_align.data.places import Places
from lit_align.data.report import DataReport, Lengths, Tally, publish


def filled():
    report = DataReport("rows.jsonl", "pairs (pairs, plain text)")
    report.read, report.kept = 40, 9
    for row in range(1, 31):
        report.drop(row, "identical")
    report.drop(31, "longer than the limits")
    report.leave_out(32, {"tied pair": 3})
    report.leave_out(33, {"tied pair": 1})
    report.events["truncated"].add(34)
    report.events["eos_lost"].add(34)
    for length in (4, 8, 8, 100):
        report.completions.add(length)
    report.prompts.add(7)
    for margin in (0.5, 1.23456, 3.0):
        report.add_margin(margin)
    report.notes.append("split by prompt")
    return report


def test_tally_keeps_the_first_twenty_rows():
    tally = Tally()
    for row in range(1, 21):
        tally.add(row)
    assert tally.to_text(Places()) == f"20 (rows {', '.join(map(str, range(1, 21)))})"
    tally.add(21)
    assert tally.to_text(Places()).endswith(", 20, ...)")
    assert tally.total == 21


def test_tally_names_a_row_once():
    tally = Tally()
    tally.add(3, times=5)
    tally.add(3)
    assert tally.to_text(Places()) == "6 (rows 3)"


def test_quantiles_are_lengths_that_occur():
    lengths = Lengths({10: 1, 20: 1, 30: 1, 1000: 1})
    assert lengths.quantiles() == {"0": 10, "0.25": 10, "0.5": 20, "0.75": 30, "0.95": 1000, "1": 1000}
    assert Lengths().quantile(0.5) == 0


def test_text_names_counts_reasons_rows_and_lengths():
    text = filled().to_text()
    assert "rows.jsonl: pairs (pairs, plain text)" in text
    assert "40 read, 9 kept" in text
    assert "dropped, identical: 30 (rows 1, 2" in text
    assert "not used, tied pair: 4 (rows 32, 33)" in text
    assert "cut to the limits on length: 1 (rows 34)" in text
    assert "completion tokens (min / 25 % / median / 75 % / 95 % / max): 4 / 4 / 8 / 8 / 100 / 100" in text
    assert "split by prompt" in text
    assert "margins (min / median / max; 0 for a pair without one): 0.5 / 1.23 / 3" in text
    assert "margins" not in DataReport("x").to_text()
    assert "BOS" not in text


def test_state_survives_json():
    report = filled()
    restored = DataReport.from_state(json.loads(json.dumps(report.to_state())))
    assert restored.to_dict() == report.to_dict()
    assert restored.to_text() == report.to_text()


def test_published_beside_the_reports_of_other_stages(tmp_path, capsys):
    publish({"train": filled(), "validation": filled()}, tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.startswith("train and validation: rows.jsonl")
    publish({"test": DataReport("test.jsonl")}, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert list(saved) == ["train", "validation", "test"]
    assert saved["train"]["dropped"]["identical"]["total"] == 30
    assert saved["train"]["completion_tokens"]["0.5"] == 8
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data_report.json"]


def test_labels_are_counted():
    report = filled()
    assert "labels" not in report.to_text()
    report.labels.update([True] + [False] * 39)
    assert "\n  labels: 1 desirable, 39 undesirable\n" in report.to_text()
    assert report.to_dict()["labels"] == {"desirable": 1, "undesirable": 39}
    restored = DataReport.from_state(json.loads(json.dumps(report.to_state())))
    assert restored.to_text() == report.to_text()


def test_a_damaged_report_is_replaced(tmp_path):
    (tmp_path / "data_report.json").write_text("{")
    publish({"train": filled()}, tmp_path)
    assert list(json.loads((tmp_path / "data_report.json").read_text())) == ["train"]


def test_what_else_the_data_say_is_counted():
    report = DataReport("a.jsonl", "steps")
    assert report.to_dict()["counts"] == {}
    report.count("steps", "right", 3)
    report.count("steps", "wrong", 0)
    report.count("steps", "not learnt")
    report.count("steps", "right")
    assert "\n  steps: 4 right, 1 not learnt" in report.to_text()
    again = DataReport.from_state(json.loads(json.dumps(report.to_state())))
    assert again.to_text() == report.to_text()
    assert again.to_dict()["counts"] == {"steps": {"right": 4, "not learnt": 1}}
