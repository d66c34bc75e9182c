"""The report: complete, in one file, safe against what a model may write, and content with whatever a run left."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest
import yaml

from lit_align.core.errors import ConfigError
from lit_align.evaluation.figures import collect, histogram, smooth, thin, training_curves
from lit_align.evaluation.report import build_report, number
from lit_align.tools.report import main

ATTACK = "<script>alert('no')</script><img src=x onerror=alert(1)> & \"quotes\""
FILES = ("metrics.jsonl", "evaluation.json", "completions.jsonl", "data_report.json", "config.yaml")
VOID = {"meta", "br", "img", "link", "input", "hr"}


def _metrics(steps=40):
    for step in range(steps):
        record = {"step": step, "epoch": 0, "loss": math.exp(-step / 20), "learning_rate": 1e-3, "num_tokens": 9.0}
        for side, sign in (("chosen", 1), ("rejected", -1)):
            record |= {f"rewards/{side}": sign * step / 40, f"logps/{side}": -5.0 + sign * step / 40}
        yield record | {"rewards/margins": step / 20, "rewards/accuracies": min(1.0, step / 20), "grad_norm": 1.5}
        if step % 10 == 9:
            yield {"step": step, "epoch": 0, "val/loss": math.exp(-step / 20), "val/rewards/accuracies": step / 40}


def _evaluation():
    line = {"name": "preferred behaviour", "unit": "%", "before": 0.5, "after": 0.9375, "note": "of 16 prompts"}
    return {
        "about": "What this is.",
        "labels": ["SFT", "SFT + DPO"],
        "headline": [line, line | {"name": "margin", "unit": "nats", "before": None, "after": 3.21}],
        "histograms": [{"title": "Margins", "unit": "nats", "series": {"SFT": [-1, 0, 1], "SFT + DPO": [2, 3, 4.5]}}],
        "completions": [
            {"prompt": f"prompt {n} {ATTACK}", "texts": ["How boring!", ATTACK], "accepted": [False, True]}
            for n in range(12)
        ],
    }


def _data_report():
    tally = {"total": 2, "rows": [3, 7], "more": False}
    return {
        "train": {
            "source": "pairs.jsonl", "format": "pairs", "read": 10, "kept": 8, "dropped": {ATTACK: tally},
            "left_out": {}, "truncated": tally, "eos_lost": {"total": 0, "rows": [], "more": False},
            "prompt_tokens": {"0": 3, "0.5": 7, "1": 11}, "completion_tokens": {"0": 2, "0.5": 5, "1": 12},
            "notes": ["a note"],
        }
    }  # fmt: skip


def _config():
    return {
        "seed_everything": 0,
        "model": {"class_path": "lit_align.DPO", "init_args": {"policy": "some/model", "beta": 0.5, "revision": None}},
        "trainer": {"max_epochs": 1, "callbacks": [{"class_path": ATTACK}]},
    }


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"step": step, "prompt": ATTACK, "completion": f"after {step} steps", "tokens": 4 + step}
        for step in range(0, 60, 10)
    ]
    contents = [_lines(_metrics()), json.dumps(_evaluation()), _lines(rows)]
    contents += [json.dumps(_data_report()), yaml.safe_dump(_config())]
    for name, text in zip(FILES, contents, strict=True):
        (folder / name).write_text(text)
    return folder


class _Checker(HTMLParser):
    """Notes which elements and attributes a page has, and that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _build(run, **kwargs):
    html = build_report(run, run / "report.html", **kwargs).read_text(encoding="utf-8")
    return html, _Checker(html)


# -------------------------------------------------------------------- the page


def test_a_page_shows_everything_of_a_run(run):
    html, page = _build(run, title="My run")
    words = " ".join("".join(page.words).split())
    for text in (
        "My run", "What this is.", "50 %", "93.8 %", "3.21 nats", "SFT: – nats", "SFT + DPO", "How boring!",
        "after 50 steps", "Implicit rewards", "Reward margin", "Reward accuracy", "Log-probability of responses",
        "Learning rate", "Margins", "2 (rows 3, 7)", "a note", "some/model", "beta: 0.5", "torch",
        "The other 2 prompts",
    ):  # fmt: skip
        assert text in words, text
    assert "revision" not in words
    assert "Not on this page" not in words
    assert html.count("<svg") >= 8
    assert html.count("✓") == 12 + 1
    assert html.count("✗") == 12


def test_a_page_needs_nothing_else(run):
    html, page = _build(run)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for name, value in page.attributes:
        if name in ("src", "href", "action", "data"):
            assert value.startswith("#"), (name, value)
        assert not name.startswith("on")
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "http" not in html


def test_everything_is_escaped(run):
    html, page = _build(run, title=ATTACK)
    assert "<script" not in html
    assert "<img" not in html
    assert ATTACK in "".join(page.words)


def test_names_of_metrics_and_of_series_are_escaped(run):
    (run / "metrics.jsonl").write_text(_lines({"step": s, ATTACK: s, f"val/{ATTACK}": s} for s in range(3)))
    evaluation = _evaluation()
    evaluation["histograms"][0] |= {"title": ATTACK, "unit": ATTACK, "series": {ATTACK: [1, 2]}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    html, _ = _build(run)
    assert "<script" not in html
    assert "<img" not in html


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_missing(run, name):
    (run / name).unlink()
    html, _ = _build(run)
    assert (f"{name}: not there" in html) == (name != "evaluation.json")


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_alone(run, name):
    for other in FILES:
        if other != name:
            (run / other).unlink()
    _build(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "7\n", '{"a": 1', "\x00\xff"])
def test_damaged_files_are_named_and_do_no_harm(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    html, _ = _build(tmp_path)
    assert name in html or not text


def test_a_line_cut_by_a_kill_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "loss": 0.')
    html, _ = _build(run)
    assert "1 unreadable line left out" in html


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_folder_without_a_run_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no run to report"):
        build_report(tmp_path / folder, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_several_runs_share_a_page(run, tmp_path):
    other = tmp_path / "earlier"
    other.mkdir()
    (other / "metrics.jsonl").write_text(
        _lines({"step": s, "loss": 1 / (s + 1), "nll_loss": 1 / (s + 1)} for s in range(5))
    )
    html = build_report([run, other], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "Training: DPO" in html
    assert "Training: earlier" in html


def test_without_a_comparison_the_metrics_head_the_page(run):
    (run / "evaluation.json").unlink()
    html, page = _build(run)
    assert "reward accuracy" in page.words
    assert "held-out data, step 9 and step 39" in page.words
    assert "22.5 %" in html
    assert "97.5 %" in html


def test_scores_are_drawn_where_there_is_no_comparison(run):
    (run / "evaluation.json").unlink()
    sides = ({"role": "chosen", "logps": -4.0, "tokens": 5}, {"role": "rejected", "logps": -6.5, "tokens": 6})
    (run / "scores.jsonl").write_text(_lines({"row": n} | side for n in range(9) for side in sides))
    html, _ = _build(run)
    assert "chosen less rejected (mean 2.5)" in html
    assert "rejected (mean 6.0)" in html
    assert "Lengths of the scored responses" in html


def test_the_command_writes_into_the_run_folder(run, tmp_path, capsys):
    main(["--run", str(run), "--title", "From the command"])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "From the command" in (run / "report.html").read_text(encoding="utf-8")
    main(["--run", str(run), "--out", str(tmp_path / "new" / "page.html")])
    assert (tmp_path / "new" / "page.html").is_file()


# -------------------------------------------------------------------- figures


def test_metrics_that_are_no_numbers_are_left_out():
    rows = [{"step": 0, "loss": float("nan"), "kl": float("inf"), "grad_norm": 1, "text": "x"}, {"loss": 3.0}]
    assert collect(rows) == {"grad_norm": [(0.0, 1.0)]}


def test_a_loss_that_is_the_likelihood_is_drawn_once():
    rows = [{"step": step, "loss": 1 / (step + 1), "nll_loss": 1 / (step + 1)} for step in range(4)]
    assert [figure.title for figure in training_curves(rows)] == ["Loss"]


def test_unknown_metrics_have_panels_unless_they_never_change():
    rows = [{"step": step, "diversity": step, "alarms/displacement": 0.0} for step in range(4)]
    assert [figure.title for figure in training_curves(rows)] == ["diversity"]


def test_long_runs_are_drawn_with_few_points():
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    assert len(thin(points)) == 400
    assert thin(points)[0] == (12.0, 12 / 25)
    assert thin(points[:300]) == points[:300]


def test_the_moving_average_keeps_a_constant_and_the_length():
    assert smooth([2.0] * 50) == [2.0] * 50
    assert smooth([0.0, 3.0, 0.0]) == [1.5, 1.0, 1.5]


@pytest.mark.parametrize("values", [[1.5], [2, 2, 2], [-1e-9, 1e9], [0.5, float("nan")], [], [True]])
def test_histograms_of_odd_values(values):
    figure = histogram("Odd", "", {"one": values})
    assert figure.svg.startswith("<svg") == (values not in ([], [True]))


def test_figures_are_the_same_each_time():
    rows = list(_metrics())
    assert training_curves(rows) == training_curves(rows)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.5, "%", "50 %"), (0.994, "%", "99.4 %"), (None, "%", "–"), (1.234, "nats", "1.23"), (2e-5, "", "2.0e-05")],
)
def test_numbers_are_readable(value, unit, text):
    assert number(value, unit) == text
