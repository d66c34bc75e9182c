"""Figures of the report, drawn: six kinds, each from plain values that `figure_specs` has checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lit_align.evaluation.drawings import COLOURS, INK, SMALL, WIDTH, Drawing, Palette, in_all_forms
from lit_align.evaluation.figure_specs import Spec, names_of

ROUND = (1, 2, 2.5, 5, 10)
"""Steps of ticks."""
_HEIGHT, _SMALL_HEIGHT, _ROW, _SINGLE_ROW = 2.7, 2.3, 0.27, 0.22
_MOST_COLOURS = 6
_LETTERS, _SIGN = 13.5, 6
"""Letters of a legend to the inch, and those that the sign before a name takes the room of."""
_LONGEST = 26
"""Letters of a label that a figure has room for."""
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
"""Lines of more series than there are colours."""


def render_figure(spec: Spec, palette: Palette, *, small: bool = False) -> Drawing:
    """Draw a figure.

    Args:
        spec: what it shows; the numbers that stand in the drawing are all in it.
        palette: colours of its series.
        small: one of three in a row of the page, not of two.
    """
    draw = _DRAWN[spec["kind"]]
    return in_all_forms(
        lambda canvas, axes: draw(canvas, axes, spec, palette),
        describe(spec),
        spec["id"],
        width=SMALL if small else WIDTH,
        height=max(_SMALL_HEIGHT if small else _HEIGHT, 1.0 + _room(spec)),
    )


def describe(spec: Spec) -> str:
    """What a figure shows, in words, for those who cannot see it."""
    kind = spec["kind"]
    if kind == "histogram":
        said = [f"{name}: {n} values, mean {spec['means'][name]:.4g}" for name, n in spec["numbers"].items()]
    elif kind == "box":
        said = [f"{box['group']}, {box['name']}: median {box['median']:.4g}" for box in spec["boxes"]]
    elif kind in ("bars", "points"):
        said = [
            f"{name}, {label} {value:.4g}"
            for name, values in spec["series"].items()
            for label, value in zip(spec["labels"], values, strict=True)
            if value is not None
        ]
    elif kind == "lines":
        said = [f"{name} from {p[0][1]:.4g} to {p[-1][1]:.4g}" for name, p in spec["series"].items() if p]
    else:
        said = [f"{name}: {len(points)} points" for name, points in spec["series"].items()]
    return f"{spec['title']} ({kind}). {'; '.join(said[:12])}{'; and more' if len(said) > 12 else ''}"


def short(label: str) -> str:
    """A label with its middle left out, where it is too long for a figure."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST // 2]}…{label[-_LONGEST // 2 + 1 :]}"


def legend(canvas: Canvas, labels: Sequence[str]) -> None:
    """A legend above the axes, in one row where there is room for it.

    Args:
        canvas: the figure.
        labels: what stands in it.
    """
    room = _LETTERS * canvas.get_size_inches()[0]
    widest = max(map(len, labels)) + _SIGN
    one_row = sum(len(label) + _SIGN for label in labels) <= room
    columns = len(labels) if one_row else max(1, int(room // widest))
    canvas.legend(loc="outside upper left", ncols=columns, handlelength=1.4, labelspacing=0.2, columnspacing=1.2)


def _room(spec: Spec) -> float:
    """Inches that a figure needs for its rows of labels."""
    if spec["kind"] == "box":
        return len(spec["boxes"]) * _ROW
    if spec.get("horizontal"):
        many = len(spec["series"])
        return len(spec["labels"]) * (_SINGLE_ROW if many == 1 else max(1, many * 0.6) * _ROW)
    return 0


def _histogram(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    colours, edges = palette.of(spec["counts"]), spec["edges"]
    labels = {name: f"{short(name)} (mean {spec['means'][name]:.3g})" for name in spec["counts"]}
    for name, counts in spec["counts"].items():
        axes.stairs(counts, edges, fill=True, color=colours[name], alpha=0.45, label=labels[name])
        axes.stairs(counts, edges, color=colours[name], linewidth=1)
        axes.axvline(spec["means"][name], color=colours[name], linewidth=1.4, linestyle=(0, (3, 2)))
    if spec["zero"]:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(spec["unit"])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
    axes.grid(visible=False, axis="x")
    legend(canvas, list(labels.values()))


def _box(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    boxes, names = spec["boxes"], names_of(spec)
    colours = palette.of(names)
    places, place, group = [], 0.0, None
    for box in boxes:
        # Groups stand apart.
        place += 0.0 if group is None else 1.0 if box["group"] == group else 1.5
        group = box["group"]
        places.append(place)
    for box, y in zip(boxes, places, strict=True):
        stats = {"med": box["median"], "q1": box["q1"], "q3": box["q3"], "whislo": box["low"], "whishi": box["high"]}
        colour = colours[box["name"]]
        line = {"color": colour, "linewidth": 1.2}
        axes.bxp(
            [stats], positions=[y], widths=0.62, orientation="horizontal", showfliers=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour}, whiskerprops=line, capprops=line,
            medianprops={"color": colour, "linewidth": 2.2}, manage_ticks=False,
        )  # fmt: skip
        axes.plot(box["outliers"], [y] * len(box["outliers"]), "o", markersize=2.4, color=colour, alpha=0.5)
    groups = list(dict.fromkeys(box["group"] for box in boxes))
    middles = [[y for box, y in zip(boxes, places, strict=True) if box["group"] == name] for name in groups]
    axes.set_yticks([sum(of) / len(of) for of in middles], [short(name) for name in groups])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(spec["unit"])
    if len(names) > 1 or groups != names:
        for name in names:
            axes.plot([], [], "s", color=colours[name], alpha=0.6, label=short(name))
        legend(canvas, [short(name) for name in names])


def _bars(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    labels, series, across = spec["labels"], spec["series"], spec["horizontal"]
    owners, width = spec.get("owners", ()), 0.8 / len(series)
    colours = palette.of(names_of(spec))
    for number, (name, values) in enumerate(series.items()):
        offsets = [place + (number - (len(series) - 1) / 2) * width for place in range(len(labels))]
        heights = [0.0 if value is None else value for value in values]
        draw = axes.barh if across else axes.bar
        shades = [colours[owner] for owner in owners] or colours[name]
        # Bars of several owners have no name in common.
        label = "_" if owners else short(name)
        draw(offsets, heights, width * 0.92, color=shades, alpha=0.8, label=label)
        for place, value, interval in zip(offsets, values, spec["intervals"].get(name, []), strict=False):
            if value is not None and interval is not None:
                ends, at = interval, [place, place]
                axes.plot(*((ends, at) if across else (at, ends)), color=INK, linewidth=1.1)
    _name_rows(axes, labels, across=across)
    (axes.set_xlabel if across else axes.set_ylabel)(spec["unit"])
    if any(value is not None and value < 0 for values in series.values() for value in values):
        (axes.axvline if across else axes.axhline)(0, color=INK, linewidth=0.8)
    _line(axes, spec, across=across)
    for name in colours if owners else ():
        axes.plot([], [], "s", color=colours[name], alpha=0.8, label=short(name))
    if len(colours) > 1:
        legend(canvas, [short(name) for name in colours])


def _points(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    (name, values), *_ = spec["series"].items()
    owners = spec.get("owners", ())
    # Colours that come twice say nothing.
    colours = palette.of(names_of(spec)) if owners and len({*owners}) <= _MOST_COLOURS else {}
    for place, value in enumerate(values):
        colour = colours[owners[place]] if colours else COLOURS[0]
        interval = spec["intervals"].get(name, [None] * len(values))[place]
        if interval is not None:
            axes.plot(interval, [place, place], color=colour, linewidth=2, alpha=0.6, solid_capstyle="round")
        if value is not None:
            axes.plot([value], [place], "o", markersize=6, color=colour)
    _name_rows(axes, spec["labels"], across=True)
    _line(axes, spec, across=True)
    axes.set_xlabel(spec["unit"])


def _line(axes: Axes, spec: Spec, *, across: bool) -> None:
    """The value that the others are compared with."""
    if "line" in spec:
        (axes.axvline if across else axes.axhline)(spec["line"], color=INK, linewidth=1, linestyle=(0, (3, 2)))


def _name_rows(axes: Axes, labels: list[str], *, across: bool) -> None:
    names = [short(label) for label in labels]
    if across:
        axes.set_yticks(range(len(labels)), names)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    else:
        axes.set_xticks(range(len(labels)), names)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def _scatter(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    colours = palette.of(spec["series"])
    dots = sum(map(len, spec["series"].values()))
    for name, points in spec["series"].items():
        x, y = [p[0] for p in points], [p[1] for p in points]
        size = 4.5 if dots <= 200 else 2.6
        axes.plot(x, y, "o", markersize=size, markeredgewidth=0, color=colours[name], alpha=0.55, label=short(name))
    axes.set_xlabel(spec["x"])
    axes.set_ylabel(spec["y"])
    legend(canvas, [short(name) for name in spec["series"]])


def _lines(canvas: Canvas, axes: Axes, spec: Spec, palette: Palette) -> None:
    looks, owners = spec.get("looks", {}), spec.get("colours", {})
    colours = palette.of(names_of(spec))
    # Where every run has its colour, the legend need not say twice whose it is.
    named = {owners[name] for name in spec["series"] if looks.get(name) != "dots"} if spec.get("legend") else set()
    dashes, order = cycle(_DASHES), list(colours)
    dash_of = {name: next(dashes) if place and place % 8 == 0 else "-" for place, name in enumerate(order)}
    labels = []
    for name, points in spec["series"].items():
        owner, look = owners.get(name, name), looks.get(name, "strong")
        x, y = [p[0] for p in points], [p[1] for p in points]
        style: dict[str, Any] = {"color": colours[owner], "linewidth": 1.7, "linestyle": dash_of[owner]}
        label = short(spec.get("names", {}).get(name, name))
        if look == "pale":
            axes.plot(x, y, color=colours[owner], linewidth=0.8, alpha=0.3)
            continue
        if look == "dots":
            style |= {"linestyle": "--", "linewidth": 1, "marker": "o", "markersize": 4, "markerfacecolor": "#ffffff"}
        elif len(points) <= 20:
            style |= {"marker": "o", "markersize": 3}
        known = look == "dots" and owner in named
        axes.plot(x, y, label="_" if known else label, zorder=3 if look == "dots" else 2, **style)
        labels += [] if known else [label]
    if spec.get("diagonal"):
        ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    _scales(axes, spec)
    if len(labels) > 1 or spec.get("legend"):
        legend(canvas, labels)


def _scales(axes: Axes, spec: Spec) -> None:
    axes.set_xlabel(spec["x"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=spec["x"] in ("step", "round"), steps=ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    if spec["x"] == "step":
        axes.xaxis.set_major_formatter(FuncFormatter(_step))
    if spec.get("percent"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(-0.04, 1.08)
    else:
        axes.set_ylabel(spec["y"])


def _step(step: float, _: int) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}"


_DRAWN: dict[str, Callable[[Canvas, Axes, Spec, Palette], None]] = {
    "histogram": _histogram,
    "box": _box,
    "bars": _bars,
    "scatter": _scatter,
    "lines": _lines,
    "points": _points,
}
