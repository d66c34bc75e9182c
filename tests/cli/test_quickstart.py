"""`lit-align quickstart`: its folder, its table, and (slow) that alignment really happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lit_align.core.errors import ConfigError
from lit_align.tools.quickstart import headline_table, quickstart


def test_it_refuses_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="a folder of its own"):
        quickstart(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_it_refuses_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="a folder of its own"):
        quickstart(str(tmp_path / "out"))


def test_the_table_is_aligned():
    table = headline_table(
        [
            {"name": "accuracy", "unit": "%", "before": 0.5, "after": 1.0},
            {"name": "a long name", "unit": "nats", "before": -0.13, "after": 12.5},
        ]
    )
    assert table.splitlines() == [
        "held-out data      before       after",
        "-------------------------------------",
        "accuracy           50.0 %     100.0 %",
        "a long name    -0.13 nats  12.50 nats",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_dpo_makes_the_model_courteous(tmp_path, seed):
    out = tmp_path / "quickstart"
    command = [sys.executable, "-m", "lit_align", "quickstart", "--out", str(out), "--seed", str(seed)]
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    result = json.loads((out / "dpo" / "evaluation.json").read_text())
    numbers = {line["name"]: (line["before"], line["after"]) for line in result["headline"]}
    accuracy, margin = numbers["preference accuracy"], numbers["preference margin"]
    greedy, sampled = numbers["preferred behaviour, greedy"], numbers["preferred behaviour, sampled"]
    assert 0.4 < accuracy[0] < 0.6
    assert accuracy[1] > 0.95
    assert abs(margin[0]) < 1
    assert margin[1] > 3
    assert 0.35 < greedy[0] < 0.65
    assert greedy[1] > 0.9
    assert sampled[1] > sampled[0] + 0.2
    assert min(numbers["right answers, greedy"]) > 0.95
    assert headline_table(result["headline"]) in done.stdout

    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 8
    assert (out / "dpo" / "export" / "model.safetensors").is_file()
