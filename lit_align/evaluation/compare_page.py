"""The page of `lit-align compare`: one HTML file with the table, what it tells apart, figures, and what was run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lit_align.evaluation.compare_table import Cells, marks, rows_of, shown
from lit_align.evaluation.drawings import COLOURS, Figure, drawing
from lit_align.evaluation.environment import versions
from lit_align.evaluation.held_out import METRICS, Metric
from lit_align.evaluation.jsonl_file import JsonlFile
from lit_align.evaluation.plain import write_whole
from lit_align.evaluation.report import render
from lit_align.evaluation.report_runs import data_table
from lit_align.evaluation.series import Points, collect, smooth, thin

_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
"""Lines of more methods than there are colours."""
_GROUPS = {
    "accuracy": "Held-out preferences",
    "margin": "Against the initial policy",
    "reply_tokens": "Replies",
    "seconds": "Cost",
}
"""Headings over the columns, by the first of them."""
_CURVES = (
    ("rewards/accuracies", "Reward accuracy of training batches", "%"),
    ("rewards/margins", "Reward margin of training batches, each on the scale of its method", ""),
    ("logps/chosen", "Log-probability of chosen responses", "nats"),
    ("logps/rejected", "Log-probability of rejected responses", "nats"),
)
_DOTS = ("accuracy", "reward_accuracy", "chosen_gain", "length_drift")
_SHOWN_PROMPTS = 6


def build_page(comparison: Mapping[str, Any], out: Path, page: Path) -> None:
    """Write the page.

    Args:
        comparison: what `compare_summary.summarise` returns.
        out: folder of the comparison, with the runs and initial.json.
        page: the HTML file.
    """
    methods = [row for row in comparison["methods"] if row["cells"]]
    cells = {row["method"]: row["cells"] for row in methods}
    looks = ((colour, dashes) for dashes in cycle(_DASHES) for colour in COLOURS)
    styles = dict(zip(cells, looks, strict=False))
    figures = [_scatter(cells, styles), *(_dots(key, cells, styles) for key in _DOTS), *_curves(methods, out, styles)]
    html = render(
        "compare.html",
        title=f"{len(methods)} methods compared" if len(methods) > 1 else f"{methods[0]['method']} before and after",
        comparison=comparison,
        facts=_facts(comparison),
        groups=_groups(),
        metrics=METRICS,
        rows=_rows(comparison),
        colours={name: colour for name, (colour, _) in styles.items()},
        figures=figures,
        replies=_replies(methods, out),
        methods=[_method(row) for row in methods],
        data=[data_table(_what_for(row), row["data_report"]) for row in methods if row["data_report"]],
        environment=versions(),
    )
    write_whole(page, html)


def _facts(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    per_step = comparison["examples_per_step"]
    return [
        ("policy", comparison["policy"]),
        ("data", comparison["train"]),
        ("held out", f"{comparison['pairs']} pairs, {comparison['prompts']} prompts"),
        ("budget", f"{comparison['steps']} steps" + (f" of {per_step} examples" if per_step else "")),
        ("seeds", ", ".join(map(str, comparison["seeds"]))),
        ("written", comparison["written"].replace("T", " ")),
        ("lit-align", comparison["lit_align"]),
    ]


def _groups() -> list[tuple[str, int]]:
    """Headings over the columns, and how many columns each is over."""
    heads: list[str] = []
    for metric in METRICS:
        heads.append(_GROUPS.get(metric.key) or heads[-1])
    return [(head, len(list(group))) for head, group in groupby(heads)]


def _rows(comparison: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    """For each row of the table its name and its cells."""
    found = rows_of(comparison)
    marked = marks(dict(found[1:]))
    rows = []
    for name, cells in found:
        row = []
        for metric in METRICS:
            mean, spread = shown(cells.get(metric.key), metric.unit)
            mark = marked.get((name, metric.key), "")
            row.append({"mean": mean, "spread": spread, "mark": mark, "title": _details(cells.get(metric.key), metric)})
        rows.append((name, row))
    return rows


def _details(cell: Mapping[str, Any] | None, metric: Metric) -> str:
    """What a cell says when somebody points at it."""
    if cell is None:
        return ""

    def number(value: float) -> str:
        return shown({"mean": value, "low": None, "high": None}, metric.unit)[0]

    parts = [f"of {len(cell['values'])} seeds: {', '.join(map(number, cell['values']))}"]
    if cell["over"] != "seeds":
        parts.clear()
    if cell["low"] is not None:
        parts.append(f"95 % interval over {cell['over']}: {number(cell['low'])} to {number(cell['high'])}")
    if cell["over"] == "seeds" and cell["held_out"]:
        parts.append(f"over {metric.of}: {number(cell['held_out'][0])} to {number(cell['held_out'][1])}")
    return f"{metric.title}, {metric.unit}; {'; '.join(parts)}" if parts else f"{metric.title}, {metric.unit}"


def _method(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was run of a method."""
    return {
        "name": row["method"],
        "class": row["class"],
        "data": row["data"] + (f", by {row['convert']}" if row["convert"] else ""),
        "arguments": ", ".join(f"{name} {_in_words(value)}" for name, value in row["arguments"].items()),
        "examples": "–" if row["examples"] is None else f"{row['examples']:,}",
        "passes": "–" if row["passes"] is None else f"{row['passes']:.2f}",
        "tokens": f"{row['tokens']:,.0f}",
        "seeds": ", ".join(map(str, row["seeds"])),
    }


def _in_words(value: Any) -> str:
    """A setting; of an object its class and what it was given."""
    if not isinstance(value, dict) or "class_path" not in value:
        return str(value)
    given = value.get("init_args", {}).items()
    inside = ", ".join(f"{name} {part}" for name, part in given if part not in (None, False))
    return f"{value['class_path'].rpartition('.')[2]} ({inside})"


def _what_for(row: Mapping[str, Any]) -> str:
    return f"{row['method']}: {row['data']}"


def _replies(methods: Sequence[Mapping[str, Any]], out: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names, and for the first prompts what each says; of the methods those of their first seed."""
    files = [out / "initial.json"]
    files += [out / row["method"] / f"seed={row['seeds'][0]}" / "result.json" for row in methods]
    said = [json.loads(file.read_text(encoding="utf-8"))["held_out"]["replies"][:_SHOWN_PROMPTS] for file in files]
    names = ["initial policy", *(f"{row['method']}, seed {row['seeds'][0]}" for row in methods)]
    return names, [(replies[0]["prompt"], [reply["text"] for reply in replies]) for replies in zip(*said, strict=True)]


# -------------------------------------------------------------------- figures


Styles = Mapping[str, tuple[str, Any]]
"""Colour and dashes by method."""


def _scatter(cells: Mapping[str, Cells], styles: Styles) -> Figure:
    """What was won in accuracy, and what it cost in likelihood of chosen responses."""

    def draw(canvas: Canvas, axes: Axes) -> None:
        for name, row in cells.items():
            gain, accuracy = row["chosen_gain"], row["accuracy"]
            axes.errorbar(
                gain["mean"], accuracy["mean"], xerr=_reach(gain), yerr=_reach(accuracy),
                fmt="o", markersize=6, color=styles[name][0], elinewidth=1.2, capsize=2, label=name,
            )  # fmt: skip
        axes.axvline(0, color="#8b95a5", linewidth=0.9, linestyle=(0, (3, 2)))
        axes.set_xlabel("gain of chosen responses, nats: displaced left of 0")
        axes.set_ylim(*_shares(axes.get_ylim()))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _legend(canvas, len(cells))

    return Figure("Accuracy and displacement, held out", drawing(draw, "accuracy by gain of chosen responses"))


def _dots(key: str, cells: Mapping[str, Cells], styles: Styles) -> Figure:
    """One number of all methods, with intervals."""
    metric = next(metric for metric in METRICS if metric.key == key)
    rows = {name: row[key] for name, row in cells.items() if key in row}

    def draw(canvas: Canvas, axes: Axes) -> None:
        for place, (name, cell) in enumerate(rows.items()):
            axes.errorbar(
                cell["mean"], place, xerr=_reach(cell), fmt="o", markersize=6, color=styles[name][0],
                elinewidth=1.6, capsize=3,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if metric.unit == "%":
            axes.set_xlim(*_shares(axes.get_xlim()))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_xlabel(metric.unit)
            axes.axvline(0, color="#8b95a5", linewidth=0.9, linestyle=(0, (3, 2)))

    return Figure(f"{metric.title[0].upper()}{metric.title[1:]}, held out", drawing(draw, metric.title) if rows else "")


def _shares(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis of shares, of which none is below 0 or above 1."""
    room = max(0.005, (limits[1] - limits[0]) / 20)
    return max(-room, limits[0]), min(1 + room, limits[1])


def _reach(cell: Mapping[str, Any]) -> list[list[float]] | None:
    if cell["low"] is None:
        return None
    return [[max(0.0, cell["mean"] - cell["low"])], [max(0.0, cell["high"] - cell["mean"])]]


def _curves(methods: Sequence[Mapping[str, Any]], out: Path, styles: Styles) -> list[Figure]:
    """Metrics of training, mean of the seeds, of the methods that have them."""
    series = {
        row["method"]: [
            collect(JsonlFile(out / row["method"] / f"seed={seed}" / "metrics.jsonl").read()) for seed in row["seeds"]
        ]
        for row in methods
    }
    figures = []
    for key, title, unit in _CURVES:
        lines = {name: _mean([run.get(key, []) for run in runs]) for name, runs in series.items()}
        lines = {name: points for name, points in lines.items() if len(points) > 1}
        if lines:
            figures.append(Figure(title, drawing(_draw_lines(lines, unit, styles), title)))
    return figures


def _mean(runs: Sequence[Points]) -> Points:
    """Over the steps that all runs have logged."""
    by_step = [dict(points) for points in runs]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    return [(step, fmean(values[step] for values in by_step)) for step in steps]


def _draw_lines(lines: Mapping[str, Points], unit: str, styles: Styles) -> Callable[[Canvas, Axes], None]:
    def draw(canvas: Canvas, axes: Axes) -> None:
        for name, points in lines.items():
            steps, values = zip(*thin(points), strict=True)
            colour, dashes = styles[name]
            axes.plot(steps, smooth(values), color=colour, linestyle=dashes, linewidth=1.6, label=name)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if unit == "%":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_ylabel(unit)
        _legend(canvas, len(lines))

    return draw


def _legend(canvas: Canvas, entries: int) -> None:
    canvas.legend(loc="outside upper left", ncols=min(4, entries), handlelength=1.6, labelspacing=0.2, columnspacing=1)
