"""The table of `lit-align compare`, from what runs have left."""

from __future__ import annotations

import json

import pytest

from lit_align.evaluation.compare_page import build_page
from lit_align.evaluation.compare_summary import summarise
from lit_align.evaluation.compare_table import (
    as_markdown,
    as_text,
    at_the_top,
    below,
    cells_of,
    marks,
    shown,
    told_apart,
    verdicts,
)
from lit_align.evaluation.held_out import METRICS
from tests.evaluation.test_held_out import measured

BY_KEY = {metric.key: metric for metric in METRICS}
PAIRS = 40


def initial():
    return measured([-5.0] * PAIRS, [-5.0] * PAIRS, tokens=(4, 6))


def run(method, seed, right, gain=1.0, **changes):
    """A run under which a number of pairs are right, and chosen responses have gained some nats."""
    chosen = [-5.0 + gain] * PAIRS
    rejected = [chosen[0] - 1 if index < right else chosen[0] + 1 for index in range(PAIRS)]
    return {
        "method": method,
        "seed": seed,
        "steps": 10,
        "seconds": 2.0 + seed,
        "tokens": 600,
        "peak_bytes": 300 << 20,
        "memory": "process",
        "device": "CPU",
        "warnings": [],
        "versions": {"lit-align": "1", "torch": "2"},
        "held_out": measured(chosen, rejected, tokens=(5, 9), finished=[True, False]),
    } | changes


def method(name, **changes):
    base = {"method": name, "class": name.upper(), "data": "pairs", "convert": None, "arguments": {"beta": 0.1}}
    return base | {"examples": 80, "data_report": {}, "left_out": []} | changes


ABOUT = {
    "command": "lit-align compare <...>",
    "policy": "model",
    "train": "train.jsonl",
    "held_out": "held_out.jsonl",
    "steps": 10,
    "seeds": [0, 1, 2],
    "examples_per_step": 4,
    "asking": {"prompts": 2, "max_new_tokens": 9, "temperature": 0.0, "seed": 0},
}


def summary(results, about=ABOUT, failures=None, **methods):
    rows = [method(name, **methods.get(name, {})) for name in results]
    return summarise(about, rows, results, initial(), failures or {})


@pytest.fixture
def comparison():
    results = {
        "good": [run("good", seed, 39 + seed % 2, gain=0.5 + seed / 50) for seed in range(3)],
        "even": [run("even", seed, 38 + seed, gain=-2.0 - seed / 50) for seed in range(3)],
        "poor": [run("poor", seed, 3 + seed, gain=-9.0 + seed / 50) for seed in range(3)],
    }
    return summary(results, poor={"data": "unpaired", "convert": "pairs_to_unpaired", "examples": 160})


def test_cells_are_means_over_seeds_with_t_intervals():
    cells = cells_of([run("a", seed, 20 + seed, gain=float(seed)) for seed in range(3)], initial())
    accuracy = cells["accuracy"]
    assert accuracy["values"] == [0.5, 0.525, 0.55]
    assert (accuracy["mean"], accuracy["over"]) == (pytest.approx(0.525), "seeds")
    assert accuracy["high"] - accuracy["mean"] == pytest.approx(4.302653 * 0.025 / 3**0.5, abs=1e-6)
    # Of 40 pairs about half are right: that is 0.15 to either side.
    low, high = accuracy["held_out"]
    assert high - low == pytest.approx(0.3, abs=0.06)
    assert cells["chosen_gain"]["values"] == [0, 1, 2]
    assert cells["length_drift"]["values"] == [2, 2, 2]
    assert cells["unfinished"]["mean"] == 0.5
    assert cells["seconds"]["values"] == [2, 3, 4]
    assert cells["tokens_per_second"]["values"] == [300, 200, 150]
    assert cells["peak_memory"]["values"] == [300] * 3
    assert cells["seconds"]["held_out"] is None


def test_one_seed_has_intervals_over_examples_only():
    cells = cells_of([run("a", 0, 20)], initial())
    assert cells["accuracy"]["over"] == "pairs"
    assert [cells["accuracy"]["low"], cells["accuracy"]["high"]] == cells["accuracy"]["held_out"]
    assert cells["reply_tokens"]["over"] == "prompts"
    assert (cells["seconds"]["low"], cells["seconds"]["over"]) == (None, "")


def test_without_prompts_there_are_no_cells_of_replies():
    bare = measured([-5.0] * PAIRS, [-5.0] * PAIRS)
    cells = cells_of([run("a", 0, 20, held_out=bare)], bare)
    assert "accuracy" in cells
    assert "reply_tokens" not in cells


def test_told_apart_only_if_no_kind_of_interval_overlaps():
    def cell(mean, half, held_out):
        return {"mean": mean, "low": mean - half, "high": mean + half, "held_out": held_out}

    assert told_apart(cell(1, 0.1, [0.8, 1.2]), cell(2, 0.1, [1.8, 2.2]))
    assert not told_apart(cell(1, 0.6, [0.8, 1.2]), cell(2, 0.6, [1.8, 2.2])), "seeds overlap"
    assert not told_apart(cell(1, 0.0, [0.5, 1.5]), cell(2, 0.0, [1.4, 2.6])), "all seeds agree, but the pairs are few"
    assert told_apart(cell(1, 0.1, None), cell(2, 0.1, None))
    assert not told_apart({"mean": 1, "low": None, "high": None, "held_out": None}, cell(2, 0.1, None))


def test_the_top_holds_what_is_not_told_apart_from_the_best(comparison):
    cells = {row["method"]: row["cells"] for row in comparison["methods"]}
    assert at_the_top(BY_KEY["accuracy"], cells) == ["good", "even"]
    assert at_the_top(BY_KEY["chosen_gain"], cells) == ["good"]
    assert at_the_top(BY_KEY["margin"], cells) == [], "no margin is better than another"
    assert at_the_top(BY_KEY["accuracy"], {"good": cells["good"]}) == []
    marked = marks(cells)
    assert marked["good", "accuracy"] == marked["even", "accuracy"] == "~"
    assert marked["good", "chosen_gain"] == "*"
    assert ("poor", "accuracy") not in marked
    assert not [key for _, key in marked if key in ("seconds", "margin")]
    said = verdicts(cells)
    assert "accuracy: good and even are not told apart, at the top; poor is told apart from good" in said
    assert "chosen gain: good is told apart from all others, at the top" in said
    assert said[-1].startswith("no method is told apart from the best in")
    assert "training time" in said[-1]


def test_numbers_as_people_read_them():
    def cell(mean, half):
        return {"mean": mean, "low": mean - half, "high": mean + half}

    assert shown(cell(0.98765, 0.0123), "%") == ("98.8", "±1.2")
    assert shown(cell(-0.126, 0.05), "nats") == ("-0.13", "±0.05")
    assert shown(cell(-123.456, 20), "nats") == ("-123.5", "±20.0")
    assert shown(cell(12345.6, 10), "tokens/s") == ("12,346", "±10")
    assert shown({"mean": 4.0, "low": None, "high": None}, "s") == ("4.0", "")
    assert shown(None, "s") == ("–", "")


def test_notes_say_how_runs_differ(comparison):
    notes = "\n".join(comparison["notes"])
    assert "3 seeds (Student's t)" in notes
    assert "poor learns from unpaired, made by pairs_to_unpaired" in notes
    assert "40 held-out pairs" in notes
    assert "of the whole process in the main memory" in notes
    assert "different" not in notes
    rows = {row["method"]: row for row in comparison["methods"]}
    assert (rows["good"]["passes"], rows["poor"]["passes"]) == (0.5, 0.25)

    odd = [run("a", 0, 20, steps=7), run("a", 1, 20, memory="GPU", device="H100", versions={"torch": "3"})]
    failures = {"b, seed 0": "exit status 1"}
    notes = "\n".join(summary({"a": odd, "b": []}, failures=failures)["notes"])
    assert "a, seed 0: ended after 7 of 10 steps." in notes
    assert "different devices: CPU; H100" in notes
    assert "different versions" in notes
    assert "of tensors on the GPU or of the whole process" in notes
    assert "without the" not in notes
    left_out = summary({"a": odd}, a={"left_out": ["LoRA", "NoiseFilter"]})["notes"]
    assert any(note.startswith("a: without the LoRA and NoiseFilter of its own") for note in left_out)
    assert "Not in the table: b, seed 0. exit status 1" in notes
    one = {**ABOUT, "seeds": [0]}
    warned = [run("a", seed, 20, warnings=["look out", f"here: {seed}", "and there", "there"]) for seed in (0, 1)]
    assert "a warned: look out; here: 0; and there (and 2 more, in its logs)" in summary({"a": warned})["notes"]
    assert "With one seed nothing is known" in summary({"a": odd[:1]}, about=one)["notes"][0]


def test_the_summary_is_json_and_tables_are_made_of_it(comparison):
    again = json.loads(json.dumps(comparison))
    assert again == comparison
    assert as_markdown(again) == as_markdown(comparison)


def test_markdown_is_one_table(comparison):
    lines = as_markdown(comparison).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 1 + 3
    assert {line.count("|") for line in table} == {len(METRICS) + 2}
    assert table[2].startswith("| initial policy | 0.0 ±0.0 |")
    assert table[3].startswith("| good | 98.3 ±")
    assert "- ~ the best of its column and those not told apart from it" in lines


def test_text_fits_the_terminal(comparison):
    for width in (60, 100, 400):
        lines = as_text(comparison, width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.count("  accuracy, %") for line in lines) == 1
    assert len(lines) == 2 + 1 + 3, "one block where there is room"
    places = {line.index("±") for line in lines[3:] if "±" in line}
    assert len(places) == 1, "numbers stand below each other, marked or not"
    assert below(comparison)[0].startswith("* best of its column")
    assert any("neither the seeds nor" in line for line in below(comparison))
    two = {name: [run(name, 0, right)] for name, right in (("a", 38), ("b", 2))}
    one_seed = summary(two, about={**ABOUT, "seeds": [0]})
    assert "another seed may turn it around" in "".join(below(one_seed))


def test_a_method_without_results_has_no_row(comparison):
    rest = summary({"a": [run("a", 0, 20)], "b": []}, failures={"b, seed 0": "exit status 1"})
    assert "| b |" not in as_markdown(rest)
    assert "b, seed 0" in as_markdown(rest)


@pytest.fixture
def folder(comparison, tmp_path):
    """What the runs have left, as far as the page reads it."""
    (tmp_path / "initial.json").write_text(json.dumps({"held_out": initial()}))
    for row in comparison["methods"]:
        for seed in row["seeds"]:
            path = tmp_path / row["method"] / f"seed={seed}"
            path.mkdir(parents=True)
            (path / "result.json").write_text(json.dumps(run(row["method"], seed, 30)))
            metrics = [{"step": step, "logps/chosen": -step - seed, "rewards/accuracies": 0.5} for step in range(1, 9)]
            (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    return tmp_path


def test_the_page_is_one_file_with_everything(comparison, folder):
    build_page(comparison, folder, folder / "comparison.html")
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "3 methods compared" in page
    assert page.count("<svg") == 1 + 4 + 2
    assert "lit-align compare &lt;...&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert "95 % interval over seeds" in page
    assert "good is told apart from all others, at the top" in page
    alone = marks({row["method"]: row["cells"] for row in comparison["methods"]}).values()
    assert page.count('class="alone"') == 1 + list(alone).count("*"), "the one more is in the key"
    assert not [part for part in ("http://", "https://", "<script", "<link", "@import") if part in page]
    assert page.count("url(") == page.count("url(#")
    assert len(page) < 300_000


def test_the_page_stands_without_replies_metrics_and_a_second_method(folder):
    bare = measured([-5.0] * PAIRS, [-4.0] * PAIRS)
    (folder / "initial.json").write_text(json.dumps({"held_out": bare}))
    path = folder / "good" / "seed=0"
    (path / "metrics.jsonl").unlink()
    (path / "result.json").write_text(json.dumps(run("good", 0, 30, held_out=bare)))
    one = summarise({**ABOUT, "seeds": [0]}, [method("good")], {"good": [run("good", 0, 30, held_out=bare)]}, bare, {})
    build_page(one, folder, folder / "one.html")
    page = (folder / "one.html").read_text(encoding="utf-8")
    assert "good before and after" in page
    assert "Replies to held-out prompts" not in page
