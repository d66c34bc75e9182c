"""Figures of the report as inline SVG: training curves and histograms, with text that the page's style sets."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter


class Figure(NamedTuple):
    """A drawing with a caption."""

    title: str
    svg: str


class Panel(NamedTuple):
    """Metrics that are drawn together."""

    title: str
    names: tuple[str, ...]
    unit: str = ""


PANELS = (
    Panel("Loss", ("loss",)),
    Panel("Implicit rewards", ("rewards/chosen", "rewards/rejected")),
    Panel("Reward margin", ("rewards/margins",)),
    Panel("Reward accuracy", ("rewards/accuracies",), "%"),
    Panel("Log-probability of responses", ("logps/chosen", "logps/rejected"), "nats"),
    Panel("Accuracy", ("accuracy",), "%"),
    Panel("Margin", ("margin",)),
    Panel("Rewards", ("min_reward", "mean_reward", "max_reward")),
    Panel("Negative log-likelihood", ("nll_loss",), "nats per token"),
    Panel("Entropy of the next token", ("entropy",), "nats"),
    Panel("Tokens guessed right", ("mean_token_accuracy",), "%"),
    Panel("Mean logit", ("logits/chosen", "logits/rejected")),
    Panel("Divergence from the reference", ("kl",), "nats"),
    Panel("Learning rate", ("learning_rate",)),
    Panel("Gradient norm", ("grad_norm",)),
)
NO_METRICS = frozenset({"step", "epoch", "num_tokens"})
HELD_OUT = "val/"

_BLUE, _ORANGE, _GREEN, _GREY, _PURPLE = "#2563eb", "#d97706", "#0f9f83", "#8b95a5", "#7c3aed"
_COLOURS = {"chosen": _BLUE, "rejected": _ORANGE, "min_reward": _GREY, "max_reward": _PURPLE}
_SIDES = (_GREY, _GREEN)
_MOST_POINTS = 400
_FEW_POINTS = 20
_EXACT = frozenset({"learning_rate"})
"""Metrics without noise, drawn as they are."""
_ROUND = (1, 2, 2.5, 5, 10)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lit-align",
    "font.size": 9,
    "axes.edgecolor": "#c5ccd6",
    "axes.labelcolor": "#5b6675",
    "xtick.color": "#5b6675",
    "ytick.color": "#5b6675",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf1",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": "#37414f",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Points = list[tuple[float, float]]


def training_curves(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """One figure per group of metrics that the records hold.

    Args:
        records: of metrics.jsonl; held-out metrics begin with `val/`. Metrics that no panel names get panels of
            their own, unless they never change.
    """
    series = collect(records)
    named = {name for panel in PANELS for name in panel.names}
    further = sorted({name.removeprefix(HELD_OUT) for name in series} - named)
    others = (Panel(name.replace("_", " "), (name,)) for name in further if _changes(series, name))
    figures: list[Figure] = []
    drawn: list[list[Points]] = []
    for panel in (*PANELS, *others):
        lines = {n: series[n] for name in panel.names for n in (name, HELD_OUT + name) if n in series}
        # A loss that is the negative log-likelihood is drawn once.
        if lines and list(lines.values()) not in drawn:
            drawn.append(list(lines.values()))
            figures.append(Figure(panel.title, _curves(lines, panel.unit)))
    return figures


def collect(records: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """(step, value) of every metric that is a finite number, by name."""
    series: dict[str, Points] = {}
    for record in records:
        step = record.get("step")
        if not _is_number(step):
            continue
        for name, value in record.items():
            if name.removeprefix(HELD_OUT) not in NO_METRICS and _is_number(value):
                series.setdefault(name, []).append((float(step), float(value)))
    return series


def histogram(title: str, unit: str, series: Mapping[str, Sequence[float]]) -> Figure:
    """Distributions over common bins, one upon the other, with their means.

    Args:
        title: what is counted.
        unit: of the values.
        series: name -> values; at most two are told apart by colour.
    """
    finite = {name: [float(v) for v in values if _is_number(v)] for name, values in series.items()}
    everything = [value for values in finite.values() for value in values]
    if not everything:
        return Figure(title, "")
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas()
        edges = _edges(everything)
        for (name, values), colour in zip(finite.items(), _histogram_colours(finite), strict=False):
            mean = math.fsum(values) / max(1, len(values))
            axes.hist(values, bins=edges, color=colour, alpha=0.55, label=f"{name} (mean {mean:.1f})")
            axes.axvline(mean, color=colour, linewidth=1.4, linestyle=(0, (3, 2)))
        if min(everything) < 0 < max(everything):
            axes.axvline(0, color="#37414f", linewidth=0.8)
        axes.set_xlabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_ROUND))
        axes.grid(visible=False, axis="x")
        canvas.legend(loc="outside upper left", ncols=len(finite), handlelength=1.0, columnspacing=1.4)
        return Figure(title, _to_svg(canvas, title))


def drawing(draw: Callable[[Canvas, Axes], None], label: str) -> str:
    """A drawing in the style of the others, as SVG.

    Args:
        draw: puts something on a canvas and its axes.
        label: what it shows, for those who cannot see it.
    """
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas()
        draw(canvas, axes)
        return _to_svg(canvas, label)


def _curves(lines: Mapping[str, Points], unit: str) -> str:
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas()
        for name, points in lines.items():
            _draw_line(axes, name, points)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
        if unit == "%":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_ylim(-0.04, 1.08)
        else:
            axes.set_ylabel(unit)
        if len(lines) > 1:
            canvas.legend(loc="outside upper left", ncols=2, handlelength=1.6, labelspacing=0.2, columnspacing=1.4)
        return _to_svg(canvas, ", ".join(lines))


def _draw_line(axes: Axes, name: str, points: Points) -> None:
    """Training: every value pale, their moving average strong. Held-out: dots."""
    short = name.rpartition("/")[2]
    colour = _COLOURS.get(short, _BLUE)
    steps, values = zip(*thin(points), strict=True)
    if name.startswith(HELD_OUT):
        label = f"{short.replace('_', ' ')}, held out" if short in _COLOURS else "held out"
        shade = colour if short in _COLOURS else _ORANGE
        axes.plot(
            steps, values, "o--", color=shade, markersize=4, linewidth=1, markerfacecolor="white", label=label, zorder=3
        )
        return
    label = short.replace("_", " ") if short in _COLOURS else "training"
    if name in _EXACT or len(values) < _FEW_POINTS:
        axes.plot(steps, values, color=colour, linewidth=1.6, label=label)
        return
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=label)


def thin(points: Points) -> Points:
    """At most some 400 points: means over as many stretches, so that long runs make small pages."""
    width = math.ceil(len(points) / _MOST_POINTS)
    stretches = (points[start : start + width] for start in range(0, len(points), width))
    return [
        (math.fsum(step for step, _ in part) / len(part), math.fsum(value for _, value in part) / len(part))
        for part in stretches
    ]


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about a twelfth of the values; windows are cut at both ends."""
    reach = max(1, len(values) // 24)
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]


def _edges(values: Sequence[float]) -> list[float]:
    """Bins for all values: unit bins for small whole numbers, else 30 of equal width."""
    low, high = min(values), max(values)
    if all(value.is_integer() for value in values) and high - low <= 60:
        return [low - 0.5 + step for step in range(round(high - low) + 2)]
    width = (high - low) / 30 or 1.0
    return [low + width * step for step in range(31)]


def _histogram_colours(names: Iterable[str]) -> list[str]:
    names = list(names)
    if all(name in _COLOURS for name in names):
        return [_COLOURS[name] for name in names]
    return [_GREEN] if len(names) == 1 else [*_SIDES, *[_PURPLE] * len(names)][: len(names)]


def _changes(series: Mapping[str, Points], name: str) -> bool:
    values = {value for n in (name, HELD_OUT + name) for _, value in series.get(n, [])}
    return len(values) > 1


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _canvas() -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(4.6, 2.7), layout="constrained")
    return canvas, canvas.subplots()


def _to_svg(canvas: Canvas, label: str) -> str:
    """SVG to stand inside HTML: no prolog, no metadata, no ids but those that are referred to."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # The style that every drawing begins with would hold for the whole page, which has it too.
    svg = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # The page decides on the size and the font.
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(
        r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", svg
    )
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1).strip()
