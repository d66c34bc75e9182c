"""Small run folders for tests of the report: one that training really left, others written by hand."""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path

import yaml

from lit_align.evaluation.report import build_report

ATTACK = "<script>alert('no')</script><img src=x onerror=alert(1)> & \"quotes\" $x_1^$"
FILES = ("metrics.jsonl", "evaluation.json", "completions.jsonl", "data_report.json", "config.yaml", "run.json",
         "timing.jsonl", "alarms.jsonl")  # fmt: skip
WRONG = [None, 3, "x", [], {}, [3], ["x"], [[]], [{}], [{"a": 1}], {"a": [1]}, {"columns": 3, "rows": [[1], {}]}]
"""What a file may hold in the place of something else."""
VOID = {"meta", "br", "img", "link", "input", "hr"}


def metrics(steps=40):
    for step in range(steps):
        record = {"step": step, "epoch": 0, "loss": math.exp(-step / 20), "learning_rate": 1e-3, "num_tokens": 9.0}
        for side, sign in (("chosen", 1), ("rejected", -1)):
            record |= {f"rewards/{side}": sign * step / 40, f"logps/{side}": -5.0 + sign * step / 40}
        yield record | {"rewards/margins": step / 20, "rewards/accuracies": min(1.0, step / 20), "grad_norm": 1.5}
        if step % 10 == 9:
            yield {"step": step, "epoch": 0, "val/loss": math.exp(-step / 20), "val/rewards/accuracies": step / 40}


def evaluation():
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


def all_kinds():
    """An evaluation with a figure of every kind."""
    noise = random.Random(0)

    def normal(mean, count=60):
        return [round(noise.gauss(mean, 1), 4) for _ in range(count)]

    names = ["a long name of a model, longer than fits", "m2", "m3"]
    pairs = {side: [[x, y] for x, y in zip(normal(0), normal(1), strict=True)] for side in ("chosen", "rejected")}
    return {
        "kind": "rewards",
        "title": "A reward model",
        "about": "On pairs.",
        "labels": [],
        "seed": 3,
        "tables": [{
            "id": "accuracy", "title": "Accuracy", "note": "Ties count half.", "columns": ["section", "pairs", "share"],
            "rows": [["chat", 120, 0.615], ["all", 240, None], [ATTACK, 3, 0.25]],
        }],
        "figures": [
            {"id": "scores", "title": "Scores", "note": "Same edges.", "kind": "histogram", "unit": "reward",
             "series": {"chosen": normal(1), "rejected": normal(0)}, "range": [-4, 4], "zero": True},
            {"id": "boxes", "title": "Boxes", "note": "", "kind": "box", "unit": "reward",
             "groups": {name: {"base": normal(0), "trained": normal(1)} for name in names}},
            {"id": "bars", "title": "Bars", "note": "", "kind": "bars", "unit": "mean", "labels": ["SFT", "DPO"],
             "series": {"base": [0.25, -0.5], "trained": [0.1, None]},
             "intervals": {"base": [[0.2, 0.3], [-0.6, -0.4]]}},
            {"id": "scatter", "title": "Embeddings", "note": "", "kind": "scatter", "x": "one", "y": "two",
             "series": pairs},
            {"id": "lines", "title": "Calibration", "note": "", "kind": "lines", "x": "predicted", "y": "observed",
             "series": {"RM": [[0.1, 0.15], [0.5, 0.45], [0.9, 0.8]]}, "diagonal": True},
            {"id": "ranks", "title": "Ranking", "note": "", "kind": "points", "unit": "points", "labels": names,
             "values": [1100, 1000, 900], "intervals": [[1080, 1120], [990, 1010], [880, 920]]},
        ],
        "samples": {"columns": ["chosen", "rejected"], "rows": [
            {"prompt": "Why?", "texts": ["Because.", ATTACK], "scores": [1.25, -0.75]},
            {"prompt": [{"role": "user", "content": "Who?"}], "texts": ["I.", ""], "scores": [None, 0.5]},
        ]},
    }  # fmt: skip


def with_intervals():
    """An evaluation whose numbers have many digits, and intervals beside them."""
    columns = ["model", "points", "low", "high", "share", "wins"]
    rows = [["a", 1103.4567, 1081.2345, 1125.9876, 0.123456, 12], ["b", 96.789, 88.8888, 99.9999, 0.98765, 7]]
    samples = [{"prompt": "Why?", "texts": ["a", "b"], "scores": [0.123456, -1.987654]}]
    headline = {"name": "accuracy", "unit": "%", "before": 0.51234, "after": 0.71234, "interval": [0.68123, 0.74567]}
    small = {"name": "loss", "unit": "nats", "before": 12.3456, "after": 0.00123456, "note": ""}
    return all_kinds() | {
        "tables": [{"id": "ranks", "title": "Ranks", "note": "", "columns": columns, "rows": rows}],
        "headline": [headline, small], "labels": ["old", "new"],
        "samples": {"columns": ["chosen", "rejected"], "rows": samples},
    }  # fmt: skip


def data_report():
    tally = {"total": 2, "rows": [3, 7], "more": False}
    return {
        "train": {
            "source": "pairs.jsonl", "format": "pairs", "read": 10, "kept": 8, "dropped": {ATTACK: tally},
            "left_out": {}, "truncated": tally, "eos_lost": {"total": 0, "rows": [], "more": False},
            "prompt_tokens": {"0": 3, "0.5": 7, "1": 11}, "completion_tokens": {"0": 2, "0.5": 5, "1": 12},
            "notes": ["a note"],
        }
    }  # fmt: skip


def config():
    return {
        "seed_everything": 0,
        "model": {"class_path": "lit_align.DPO", "init_args": {"policy": "some/model", "beta": 0.5, "revision": None}},
        "trainer": {"max_epochs": 1, "callbacks": [{"class_path": ATTACK}]},
    }


def record():
    session = {
        "started": "2026-01-02T03:04:05Z", "ended": None, "outcome": None, "from_step": 0, "to_step": None, "seed": 7,
        "command": f"lit-align fit --name {ATTACK}", "device": "CPU", "processes": 2, "versions": {"torch": "1.2.3"},
    }  # fmt: skip
    last = {"ended": "2026-01-02T04:00:00Z", "outcome": "finished", "from_step": 20, "to_step": 40}
    return {"run": "x", "method": "DPO", "policy": "some/model", "settings": {}, "sessions": [session, session | last]}


def alarms():
    step = {"name": "displacement", "words": "Over the last 100 steps ...", "advice": "Try a lower learning_rate."}
    return [
        {"step": 12, **step},
        {"step": 31, **step, "words": f"Over the last 50 steps {ATTACK}"},
        {"step": 0, "name": "mine", "words": "w", "advice": ""},
    ]


def timing():
    for step in range(1, 40, 3):
        yield {"step": step, "seconds_per_step": 0.5, "tokens_per_second": 1000.0 + step, "process_bytes": 1 << 30}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_run(folder: Path) -> Path:
    """A folder with every file of a run."""
    folder.mkdir(parents=True)
    rows = [
        {"step": step, "prompt": ATTACK, "completion": f"after {step} steps", "tokens": 4 + step}
        for step in range(0, 60, 10)
    ]
    contents = [lines(metrics()), json.dumps(evaluation()), lines(rows), json.dumps(data_report())]
    contents += [yaml.safe_dump(config()), json.dumps(record()), lines(timing()), lines(alarms())]
    for name, text in zip(FILES, contents, strict=True):
        (folder / name).write_text(text)
    return folder


def write_evaluation(folder: Path, content=None) -> Path:
    """A folder with an evaluation and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(content or all_kinds()))
    return folder


class Checker(HTMLParser):
    """Notes which elements, attributes and words a page has, and that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words, self.read = [], set(), [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if not {"style", "svg", "title"} & {*self.open}:
            self.read.append(data)


def build(runs, out=None, **kwargs):
    """The text of a report, and what is in it."""
    out = out or (runs if isinstance(runs, Path) else runs[0]) / "report.html"
    html = build_report(runs, out, **kwargs).read_text(encoding="utf-8")
    return html, Checker(html)


def words_of(page):
    """What is on a page, in one line."""
    return " ".join("".join(page.words).split())
