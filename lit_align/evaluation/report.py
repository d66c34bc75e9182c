"""The report of a run: one HTML page with everything in it, which opens without a network."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lit_align import __version__
from lit_align.core.errors import ConfigError
from lit_align.evaluation.figures import HELD_OUT, Figure, collect, histogram, training_curves
from lit_align.evaluation.run_files import Row, RunFiles, is_run, read_run

_PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "peft", "bitsandbytes", "torchmetrics",
             "jsonargparse", "matplotlib")  # fmt: skip
_COUNTS = {
    "read": "rows read",
    "kept": "rows kept",
    "truncated": "cut to the limits on length",
    "prompt_truncated": "of these, the prompt",
    "eos_lost": "of these, the end of the turn was lost",
    "boundary_mismatches": "prompt alone gives other tokens than with its completion",
    "special_strings": "special-token strings in the words",
    "double_bos": "a second BOS was removed",
}
_HEADLINES = (
    ("rewards/accuracies", "reward accuracy", "%"),
    ("rewards/margins", "reward margin", ""),
    ("accuracy", "accuracy", "%"),
    ("margin", "margin", ""),
    ("loss", "loss", ""),
    ("logps/chosen", "log-probability of chosen responses", "nats"),
)
"""Metrics that head the page of a run without evaluation.json: name, words, unit."""
_MOST_CARDS = 6
_MOST_ROUNDS = 4


class Headline(NamedTuple):
    """One number of before and after."""

    name: str
    before: str
    after: str
    unit: str
    """Stands after both; empty for shares, which have their sign."""
    note: str
    shares: tuple[float, ...]
    """Both as shares of 1; empty where they are something else."""


class RunSection(NamedTuple):
    """What the page shows of one run folder."""

    name: str
    folder: str
    curves: list[Figure]
    histograms: list[Figure]
    rounds: list[int]
    """Steps of the completions that are shown."""
    completions: list[tuple[str, list[str]]]
    """(prompt, its completion at each of those steps)."""
    data: list[Row]
    """One table per split."""
    config: str


def build_report(runs: Path | Sequence[Path], out: Path, title: str = "") -> Path:
    """Write the report of one run, or of runs that followed one another.

    Args:
        runs: run folders; headline, completions and distributions come from the first. Any file of a folder may be
            missing: the page says so.
        out: the HTML file.
        title: heading of the page; default: the method and the folder.

    Returns:
        `out`.

    Raises:
        ConfigError: a folder does not exist, or holds nothing to report.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    for folder in folders:
        if not is_run(folder):
            raise ConfigError(
                "there is no run to report",
                got=f"{folder}: {'nothing that a run leaves' if folder.is_dir() else 'no such folder'}",
                fix="--run takes the run folder, which is the trainer's default_root_dir",
            )
    found = [read_run(folder) for folder in folders]
    html = _render(found, title)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".tmp")
    draft.write_text(html, encoding="utf-8")
    os.replace(draft, out)
    return out


def _render(runs: Sequence[RunFiles], title: str) -> str:
    first = runs[0]
    evaluation = first.evaluation
    labels = _labels(evaluation)
    return render(
        "report.html",
        title=title or " ".join(filter(None, (first.method, first.folder.resolve().name))),
        about=str(evaluation.get("about", "")),
        facts=_facts(first),
        labels=labels,
        headline=_headline(first),
        pairs=[_side_by_side(row) for row in _rows(evaluation.get("completions"))],
        sections=[_section(run) for run in runs],
        environment=versions(),
        notes=[note for run in runs for note in run.notes],
    )


def render(template: str, **values: Any) -> str:
    """A page of one file.

    Args:
        template: name of a file beside this one; besides the values it has `css`, the style of all pages.
        **values: what it shows.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup
    folder = files("lit_align.evaluation")
    text, css = (folder.joinpath(name).read_text(encoding="utf-8") for name in (template, "page.css"))
    return environment.from_string(text).render(css=Markup(css), **values)


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    seconds = run.evaluation.get("seconds")
    facts = {
        "method": run.method,
        "started from": run.policy,
        "run folder": str(run.folder),
        "took": f"{seconds} s" if seconds else "",
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "lit-align": __version__,
    }
    return [(name, value) for name, value in facts.items() if value]


def _labels(evaluation: Row) -> tuple[str, str]:
    labels = evaluation.get("labels")
    if isinstance(labels, list) and len(labels) == 2:
        return str(labels[0]), str(labels[1])
    return ("before", "after") if evaluation else ("first", "last")


# -------------------------------------------------------------------- headline


def _headline(run: RunFiles) -> list[Headline]:
    """The named numbers of the comparison; without one, the first and the last value of what the run logged."""
    rows = _rows(run.evaluation.get("headline"))
    return [_headline_of(row) for row in rows or _from_metrics(run)]


def _headline_of(row: Row) -> Headline:
    values, unit = (row.get("before"), row.get("after")), str(row.get("unit", ""))
    before, after = (number(value, unit) for value in values)
    shares = tuple(min(1.0, max(0.0, value)) for value in values if unit == "%" and isinstance(value, (int, float)))
    name, note = str(row.get("name", "")), str(row.get("note", ""))
    return Headline(name, before, after, "" if unit == "%" else unit, note, shares if len(shares) == 2 else ())


def _from_metrics(run: RunFiles) -> list[Row]:
    series = collect(run.metrics)
    rows: list[Row] = []
    for name, words, unit in _HEADLINES:
        held_out = HELD_OUT + name in series
        points = series.get(HELD_OUT + name if held_out else name, [])
        if points:
            (first_step, first), (last_step, last) = points[0], points[-1]
            where = "held-out data" if held_out else "training batches"
            note = f"{where}, step {first_step:.0f} and step {last_step:.0f}"
            rows.append({"name": words, "unit": unit, "before": first, "after": last, "note": note})
    return rows[:_MOST_CARDS]


def number(value: Any, unit: str = "") -> str:
    """A value as people read it; shares in percent, a dash where there is no number."""
    if not isinstance(value, (int, float)):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %".replace(".0 ", " ")
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


# -------------------------------------------------------------------- sections


def _side_by_side(row: Row) -> Row:
    texts, accepted = list(row.get("texts", [])), list(row.get("accepted", []))
    sides = [(str(text), accepted[side] if side < len(accepted) else None) for side, text in enumerate(texts)]
    return {"prompt": str(row.get("prompt", "")), "sides": sides}


def _section(run: RunFiles) -> RunSection:
    rounds, completions = _completions(run.completions)
    return RunSection(
        name=run.method or run.folder.resolve().name,
        folder=str(run.folder),
        curves=training_curves(run.metrics),
        histograms=[figure for figure in _histograms(run) if figure.svg],
        rounds=rounds,
        completions=completions,
        data=[data_table(split, report) for split, report in run.data_report.items() if isinstance(report, dict)],
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=110) if run.config else "",
    )


def _histograms(run: RunFiles) -> list[Figure]:
    """Distributions of the comparison; without one, of the scores and the completions of the run."""
    given = _rows(run.evaluation.get("histograms"))
    if given:
        return [histogram(str(h.get("title", "")), str(h.get("unit", "")), dict(h.get("series", {}))) for h in given]
    figures = []
    for name, what, unit in (("reward", "reward", ""), ("logps", "log-probability", "nats")):
        margins = _margins(run.scores, name)
        figures.append(histogram(f"Margins of the scored pairs, {what}", unit, {"chosen less rejected": margins}))
    lengths: dict[str, list[float]] = {}
    for row in run.scores:
        if "tokens" in row:
            lengths.setdefault(str(row.get("role", "responses")), []).append(row["tokens"])
    figures.append(histogram("Lengths of the scored responses", "tokens", lengths))
    steps = sorted({row["step"] for row in run.completions if "step" in row})
    by_step = {
        f"step {step}": [row["tokens"] for row in run.completions if row.get("step") == step and "tokens" in row]
        for step in dict.fromkeys((steps[0], steps[-1]))
    } if steps else {}  # fmt: skip
    figures.append(histogram("Lengths of the completions", "tokens", by_step))
    return figures


def _margins(scores: Sequence[Row], name: str) -> list[float]:
    """For each scored pair, what `name` is of the chosen response less what it is of the rejected one."""
    sides: dict[tuple[Any, Any], dict[str, float]] = {}
    for row in scores:
        if name in row and "role" in row:
            sides.setdefault((row.get("file"), row.get("row")), {})[row["role"]] = row[name]
    return [pair["chosen"] - pair["rejected"] for pair in sides.values() if pair.keys() >= {"chosen", "rejected"}]


def _completions(rows: Sequence[Row]) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """What became of each prompt at a few steps of training, the first and the last among them."""
    texts: dict[str, dict[int, str]] = {}
    for row in rows:
        if isinstance(row.get("step"), int):
            texts.setdefault(str(row.get("prompt", "")), {})[row["step"]] = str(row.get("completion", ""))
    steps = sorted({step for by_step in texts.values() for step in by_step})
    if len(steps) > _MOST_ROUNDS:
        places = (round(i * (len(steps) - 1) / (_MOST_ROUNDS - 1)) for i in range(_MOST_ROUNDS))
        steps = [steps[place] for place in places]
    return steps, [(prompt, [by_step.get(step, "") for step in steps]) for prompt, by_step in texts.items()]


def data_table(split: str, report: Row) -> Row:
    """What became of the rows of one split, as the page shows it."""
    counts = [(words, _total(report.get(name))) for name, words in _COUNTS.items()]
    for group, verb in (("dropped", "dropped"), ("left_out", "not used")):
        reasons = report.get(group)
        if isinstance(reasons, dict):
            counts += [(f"{verb}: {reason}", _total(tally)) for reason, tally in reasons.items()]
    always = {_COUNTS["read"], _COUNTS["kept"]}
    quantiles = {
        part: report[f"{part}_tokens"]
        for part in ("prompt", "completion")
        if isinstance(report.get(f"{part}_tokens"), dict)
    }
    return {
        "split": split,
        "source": str(report.get("source", "")),
        "format": str(report.get("format", "")),
        "counts": [(words, total) for words, total in counts if total != "0" or words in always],
        "quantiles": quantiles,
        "notes": [str(note) for note in report.get("notes", [])],
    }


def _total(tally: Any) -> str:
    """A count, with the first rows that it counts."""
    if not isinstance(tally, dict):
        return str(tally or 0)
    rows = ", ".join(map(str, tally.get("rows", []))) + (", ..." if tally.get("more") else "")
    total = tally.get("total", 0)
    return f"{total} (rows {rows})" if rows and total else str(total)


def versions() -> Mapping[str, str]:
    """Versions where the report is written."""
    found = {"lit-align": __version__, "Python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        # Already imported or merely installed: the metadata know without an import.
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["processors"] = str(os.cpu_count())
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        found["GPU"] = sys.modules["torch"].cuda.get_device_name()
    return found


def _rows(value: Any) -> list[Row]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
