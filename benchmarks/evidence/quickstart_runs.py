"""Configurations of loops on the quickstart's model, run as a user runs them; and how the model replies afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from statistics import fmean

from evidence.quiet import quiet
from lit_align.evaluation.comparison import measure, share
from lit_align.evaluation.quickstart_language import assess, judge

SAMPLES = 8
"""Replies to each held-out prompt."""
_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
_HOME = tempfile.TemporaryDirectory(prefix="quickstart_")
"""Goes with the process."""


@cache
def first_model() -> Path:
    """The quickstart's fine-tuned model, with which its loops begin; made once, in about two minutes."""
    _lit_align("quickstart")
    return Path(_HOME.name) / "runs" / "quickstart" / "sft" / "export"


def run_configuration(name: str, label: str, *changes: str) -> Path:
    """Run a configuration of `configs/quickstart`.

    Args:
        name: of its file.
        label: of the run; one to a label.
        *changes: of its settings, as on the command line.

    Returns:
        The folder of the exported model.
    """
    first_model()
    out = Path(_HOME.name) / "runs" / label
    config = str(_CONFIGS / f"{name}.yaml")
    _lit_align("fit", "--config", config, "--trainer.default_root_dir", str(out), *changes)
    _lit_align("export", str(out))
    return out / "export"


def replies(model: Path) -> dict[str, float]:
    """How a model, the first one or one that has gone on from it, replies to people whom it has not met.

    Returns:
        `preferred` and `right`: shares of replies drawn at temperature 1 to held-out prompts that the quickstart's
        rule accepts, and that give the right fact; `accuracy`: share of 160 held-out pairs whose chosen reply is the
        likelier one. The standard error that drawing 1280 replies gives the shares is at most 0.014.
    """
    data = Path(_HOME.name) / "runs" / "quickstart" / "data"
    lines = (data / "prompts_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["prompt"][0]["content"] for line in lines]
    pairs = data / "preferences_heldout.jsonl"
    with quiet():
        measured = measure(model, pairs, prompts, cache_dir=data / "cache", samples=SAMPLES)
    asked = [prompt for prompt in prompts for _ in range(SAMPLES)]
    return {
        "preferred": share(judge, asked, measured.sampled),
        "right": share(lambda prompt, reply: assess(prompt, reply).right, asked, measured.sampled),
        "accuracy": fmean(margin > 0 for margin in measured.margins),
    }


def _lit_align(*arguments: str) -> None:
    """A command in a process of its own."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    command = [sys.executable, "-m", "lit_align", *arguments]
    done = subprocess.run(command, cwd=_HOME.name, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
