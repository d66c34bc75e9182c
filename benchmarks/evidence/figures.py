"""One figure per experiment: every seed as a dot, the mean with its interval beside it, the claim as title."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from evidence.intervals import interval

INK, PALE, BLUE, GRID = "#1f2933", "#8b95a5", "#2563eb", "#e4e7eb"
LINES = ("#8b95a5", "#2563eb", "#d97706", "#0f9f83", "#7c3aed", "#dc2626", "#0891b2", "#65a30d", "#a16207")
VERDICTS = {"held": "#0f7b53", "mixed": "#a15c00", "not held": "#b42318"}
STYLE = {
    "font.size": 8,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH = 8.0


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw an experiment's plots side by side into a PNG.

    Args:
        result: what `experiment.execute` returned.
        path: where to put it.
    """
    plots = result["plots"] or [{"measure": measure} for measure in list(result["measures"])[:3]]
    columns = min(len(plots), 3)
    rows = math.ceil(len(plots) / columns)
    most = max(len(result["measures"][plot["measure"]]) for plot in plots)
    bars = any("lines" not in plot for plot in plots)
    height = (0.6 + 0.2 * most if bars else 2.8) * rows
    title = textwrap.fill(result["claim"], 100)
    head = 0.2 * (title.count("\n") + 1) + 0.35
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height + head), dpi=100, layout="constrained")
        verdict = result["verdict"] or "no comparison yet"
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
        axes = figure.subplots(rows, columns, squeeze=False)
        for index, (axis, plot) in enumerate(zip(axes.flat, plots, strict=False)):
            if "lines" in plot:
                _lines(axis, plot, result)
            else:
                # Bars beside bars have the labels of these.
                labelled = index % columns == 0 or "lines" in plots[index - 1]
                _bars(axis, plot["measure"], result, labels=labelled)
        for axis in list(axes.flat)[len(plots) :]:
            axis.set_visible(False)
        seeds = f"{result['seeds']} seeds, mean and 95 % interval" if result["seeds"] > 1 else "exact, no seeds"
        figure.supxlabel(
            textwrap.fill(f"{verdict} - {seeds} - {result['budget']}", 140),
            x=0.01,
            ha="left",
            fontsize=7.5,
            color=VERDICTS.get(verdict, PALE),
        )
        drawn = io.BytesIO()
        figure.savefig(drawn, metadata={"Software": None})
    # A palette of 64 colours is enough for dots and lines, and a third of the size.
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def _bars(axis: Axes, measure: str, result: dict[str, Any], labels: bool) -> None:
    values = result["measures"][measure]
    # Rows are the labels of all measures, so that panels side by side line up.
    names = list(
        dict.fromkeys(
            label for plot in result["plots"] or [{"measure": measure}] for label in result["measures"][plot["measure"]]
        )
    )
    for row, label in enumerate(names):
        own = values.get(label)
        if own is None:
            continue
        mean, half_width = interval(own)
        axis.plot(own, [row] * len(own), "o", color=PALE, markersize=3, alpha=0.6, markeredgewidth=0)
        error = None if math.isnan(half_width) else half_width
        axis.errorbar(mean, row, xerr=error, fmt="o", color=BLUE, markersize=4, capsize=2, linewidth=1.2)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), names if labels else [""] * len(names))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_title(measure.replace("_", " "), fontsize=8, loc="left")


def _lines(axis: Axes, plot: dict[str, Any], result: dict[str, Any]) -> None:
    values = result["measures"][plot["measure"]]
    title = plot["measure"].replace("_", " ")
    base: dict[float, str] = {}
    if plot["minus"] is not None:
        base = dict(plot["lines"][plot["minus"]])
        title += f", minus that of {plot['minus']}"
        axis.axhline(0, color=PALE, linewidth=1)
    lines = {line: points for line, points in plot["lines"].items() if line != plot["minus"]}
    for colour, (line, points) in zip(LINES * 3, lines.items(), strict=False):
        x = [point[0] for point in points]
        rows = [values[label] for _, label in points]
        if base:
            rows = [
                [a - b for a, b in zip(row, values[base[at]], strict=True)] for at, row in zip(x, rows, strict=True)
            ]
        means, widths = zip(*(interval(row) for row in rows), strict=True)
        axis.errorbar(
            x,
            means,
            yerr=[0 if math.isnan(width) else width for width in widths],
            color=colour,
            marker="o",
            markersize=3,
            capsize=2,
            linewidth=1.2,
            label=line,
        )
    if plot["log_x"]:
        axis.set_xscale("log")
    ticks = sorted({point[0] for points in lines.values() for point in points})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel(plot["x"])
    axis.set_title(title, fontsize=8, loc="left")
    axis.legend(frameon=False, fontsize=7)
