"""Every loop on the quickstart's model, as the README says it: its configuration alone, to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_align.evaluation.comparison import Measurement, compare, measure
from lit_align.evaluation.quickstart_language import assess, judge
from tests.rows import loop_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
LOOPS = [path for path in sorted(CONFIGS.glob("*.yaml")) if loop_of(yaml.safe_load(path.read_text())) is not None]
GAINS = {
    "adversarial_po": 0.12,
    "ai_feedback": 0.2,
    # What is distilled is the effect of a greeting, most of which the model shows without one.
    "context_distilled": -0.05,
    "critique_revision": 0.2,
    "dice": 0.06,
    "iterative_dpo": 0.25,
    "iterative_dpo_ilr": 0.18,
    "online_dpo": 0.25,
    "raft": 0.25,
    "rso": 0.15,
    "samplers": 0.2,
    "self_rewarding": 0.25,
    "spin": 0.1,
    "sppo_rounds": 0.15,
}
"""By how much the share of sampled replies rises, at least, that show the preferred behaviour: about half of what was
seen."""


def run(folder: Path, *arguments: str) -> str:
    """A command of the README."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    command = [sys.executable, "-m", "lit_align", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The quickstart's models and data."""
    folder = tmp_path_factory.mktemp("user")
    run(folder, "quickstart")
    return folder


def measured(folder: Path, model: Path) -> tuple[Measurement, list[str]]:
    data = folder / "runs" / "quickstart" / "data"
    prompts = [json.loads(line)["prompt"][0]["content"] for line in (data / "prompts_heldout.jsonl").open()]
    return measure(model, data / "preferences_heldout.jsonl", prompts, cache_dir=folder / "cache", seed=0), prompts


@pytest.mark.slow
@pytest.mark.parametrize("config", LOOPS, ids=lambda path: path.stem)
def test_from_the_quickstarts_data_to_the_report(config, folder):
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    out = folder / settings["trainer"]["default_root_dir"]
    run(folder, "fit", "--config", str(config), "--trainer.enable_progress_bar", "false")
    run(folder, "export", str(out))
    (loop,) = (
        callback["init_args"] for callback in settings["trainer"]["callbacks"] if callback["class_path"] != "RunReport"
    )
    rounds = sorted(path.name for path in (out / "rounds").glob("round_*"))
    assert rounds
    assert len(rounds) == loop.get("rounds", len(rounds)) or "keep_rounds" in loop
    assert 'id="rounds"' in (out / "report.html").read_text(encoding="utf-8")
    before, prompts = measured(folder, folder / settings["model"]["init_args"]["policy"])
    after, _ = measured(folder, out / "export")
    right = lambda prompt, reply: assess(prompt, reply).right  # noqa: E731
    numbers = compare(before, after, prompts, labels=("before", "after"), preferred=judge, right=right)["headline"]
    found = {line["name"]: (line["before"], line["after"]) for line in numbers}
    print(config.stem, found)
    old, new = found["preferred behaviour, sampled"]
    assert new > old + GAINS[config.stem]
    assert found["right answers, greedy"][1] > 0.9
