"""`lit-align quickstart`: the whole story on a small machine, from no data at all to an aligned model and a report."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.tools.command import run_command
from lit_align.tools.configs import find

_MARKER = "quickstart.json"
_PARTS = ("data", "model", "cache", "sft", "dpo", "report.html", "report.json", "report_figures",
          "report_samples.jsonl", _MARKER)  # fmt: skip
"""What a quickstart leaves in its folder; a second one replaces it."""
_ENVIRONMENT = {
    # A model this small gains little from more threads, and loses much where cores are shared.
    "OMP_NUM_THREADS": "1",
    # Bars for files that are read in an instant would hide what there is to see.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_ABOUT = (
    "A language model with random weights first learnt to answer household questions from demonstrations, courteous "
    "to people who ask kindly and rude to many who do not. Then DPO learnt from pairs in which the courteous reply "
    "is preferred, whatever the question. All numbers here come from prompts that neither stage ever saw. A reply "
    "counts as preferred if a rule finds the right fact about the right subject, a courteous remark, no rude one, "
    "and well-formed sentences."
)


def quickstart(out: str = "runs/quickstart", seed: int = 0) -> None:
    """Make a small English world, fine-tune a model on it, align it with DPO, and report what changed.

    Needs no download and no GPU, and takes about two minutes on two cores.

    Args:
        out: folder for data, models, runs and the report.
        seed: of the data, the weights and the training; another seed gives another world of the same kind.
    """
    started = time.monotonic()
    folder = _fresh_folder(Path(out))
    print(f"[1/5] Writing demonstrations, preference pairs, a tokenizer and a random model to {folder}", flush=True)
    files = _make_world(folder, seed)

    print("\n[2/5] SFT: the model learns to answer; half of its teachers are courteous, half are rude", flush=True)
    _fit("sft", folder, folder / "model", files["demonstrations"], files["demonstrations_heldout"], seed)
    sft = _export(folder / "sft")

    print("\n[3/5] DPO: it learns that courteous replies are preferred", flush=True)
    _fit("dpo", folder, sft, files["preferences"], files["preferences_heldout"], seed)
    dpo = _export(folder / "dpo")

    print("\n[4/5] Asking both models the held-out questions", flush=True)
    result = _compare(folder, files, sft, dpo, seed)

    print("\n[5/5] Writing the report\n", flush=True)
    result["about"] = _ABOUT
    result["seconds"] = round(time.monotonic() - started)
    (folder / "dpo" / "evaluation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    report = _report(folder)
    print(headline_table(result["headline"]))
    print(f"\nThe report: {report} (after {result['seconds']} s; the aligned model is in {dpo})", flush=True)


def headline_table(headline: list[dict[str, Any]]) -> str:
    """The named numbers before and after, as text."""
    rows = [("held-out data", "before", "after")]
    rows += [(row["name"], _number(row["before"], row["unit"]), _number(row["after"], row["unit"])) for row in headline]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{name:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}" for name, old, new in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Run `lit-align quickstart`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    run_command("quickstart", quickstart, argv, as_positional=False)


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.2f} {unit}"


def _fresh_folder(folder: Path) -> Path:
    """Make the folder, or empty it of an earlier quickstart.

    Raises:
        ConfigError: it holds something else.
    """
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARKER).is_file()):
            raise ConfigError(
                "the quickstart wants a folder of its own",
                got=f"{folder}, which holds other things",
                fix="choose a new folder with --out",
            )
        for part in _PARTS:
            path = folder / part
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("{}\n", encoding="utf-8")
    return folder


def _make_world(folder: Path, seed: int) -> dict[str, Path]:
    from lit_align.evaluation.quickstart_data import make_world, write_model, write_world

    world = make_world(seed)
    write_model(world.texts(), folder / "model", seed)
    files = write_world(world, folder / "data")
    for kind, path in files.items():
        print(f"      {len(getattr(world, kind)):>5} {kind.replace('_', ' ')}: {path}", flush=True)
    return files


def _fit(stage: str, folder: Path, policy: Path, train: Path, validation: Path, seed: int) -> None:
    """Train as a user would, with the command line.

    Raises:
        ConfigError: training failed; it has said why.
    """
    options = {
        "config": find(f"quickstart/{stage}"),
        "seed_everything": seed,
        "model.policy": policy,
        "data.train": train,
        "data.validation": validation,
        "data.cache_dir": folder / "cache",
        "data.seed": seed,
        "trainer.default_root_dir": folder / stage,
    }
    arguments = ["fit", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    print(f"      $ lit-align {shlex.join(arguments)}\n", flush=True)
    environment = {**_ENVIRONMENT, **os.environ}
    status = subprocess.run([sys.executable, "-m", "lit_align", *arguments], env=environment, check=False).returncode
    if status != 0:
        raise ConfigError(
            f"training stopped in the quickstart's stage '{stage}'",
            got=f"exit status {status}",
            fix="see its message above",
        )


def _export(run: Path) -> Path:
    from lit_align.tools.export import export

    print(f"      $ lit-align export --run {shlex.quote(str(run))}", flush=True)
    export(run=str(run))
    return run / "export"


def _compare(folder: Path, files: dict[str, Path], before: Path, after: Path, seed: int) -> dict[str, Any]:
    from lit_align.evaluation.comparison import compare, measure
    from lit_align.evaluation.quickstart_language import assess, judge

    lines = files["prompts_heldout"].read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["prompt"][0]["content"] for line in lines]
    old, new = (
        measure(model, files["preferences_heldout"], prompts, cache_dir=folder / "cache", seed=seed)
        for model in (before, after)
    )
    return compare(
        old,
        new,
        prompts,
        labels=("SFT", "SFT + DPO"),
        preferred=judge,
        right=lambda prompt, reply: assess(prompt, reply).right,
    )


def _report(folder: Path) -> Path:
    from lit_align.evaluation.report import build_report

    return build_report([folder / "dpo", folder / "sft"], folder / "report.html", title="lit-align quickstart")
