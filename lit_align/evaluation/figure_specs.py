"""What a figure shows, as plain values: checked, and with every number that is drawn, before anything is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from lit_align.evaluation.series import Points, is_number

Spec = dict[str, Any]
"""A figure of evaluation.json, or one of a run, with these keys besides id, title, note and kind.

- histogram: unit, edges, counts {name: [..]}, means, medians and numbers {name: ..}, zero
- box: unit, boxes [{group, name, number, low, q1, median, q3, high, outliers}]
- bars, points: unit, labels, series {name: [..]}, intervals {name: [[lo, hi], ..]}, horizontal; optional: owners [..],
  which of one series say whose colour each label has, and line, a value to compare with
- scatter: x, y, series {name: [[x, y], ..]}
- lines: x, y, series, diagonal, percent, looks {name: pale, strong, exact or dots}, colours {name: name}
"""

_MOST_DOTS = 2000
_BINS = 30


def names_of(spec: Spec) -> list[str]:
    """The names that a figure tells apart by colour."""
    if spec["kind"] == "box":
        return list(dict.fromkeys(box["name"] for box in spec["boxes"]))
    if spec["kind"] == "histogram":
        return list(spec["counts"])
    if spec["kind"] in ("bars", "points"):
        return list(dict.fromkeys(spec.get("owners", ()))) or list(spec["series"])
    owners = spec.get("colours", {})
    return list(dict.fromkeys(owners.get(name, name) for name in spec["series"]))


def slug(text: str) -> str:
    """A name for files and anchors: lower-case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "figure"


def spec_of(raw: Mapping[str, Any]) -> Spec:
    """A figure of evaluation.json, checked.

    Args:
        raw: see the kinds of figures; values that are no finite numbers are left out, and the note says how many.

    Raises:
        ValueError: of an unknown kind, or without the parts of its kind.
    """
    kind = raw.get("kind", "histogram")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind {kind!r}; known are {', '.join(_KINDS)}")
    title = str(raw.get("title") or raw.get("id") or kind)
    head = {"id": slug(str(raw.get("id") or title)), "title": title, "note": str(raw.get("note") or ""), "kind": kind}
    try:
        spec, lost = _KINDS[kind](raw)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not the parts of a figure of kind {kind} ({type(error).__name__}: {error})") from error
    if lost:
        head["note"] = f"{head['note']} {lost} values that are no numbers are left out.".strip()
    return head | spec


def histogram(title: str, unit: str, series: Mapping[str, Sequence[Any]], **more: Any) -> Spec:
    """Distributions over common bins, with their means and medians.

    Raises:
        ValueError: there is no number.
    """
    return spec_of({"kind": "histogram", "title": title, "unit": unit, "series": series, **more})


def lines(title: str, unit: str, series: Mapping[str, Points], **more: Any) -> Spec:
    """Curves over steps."""
    head = {"id": slug(title), "title": title, "note": "", "kind": "lines", "x": "step", "y": unit}
    return head | {"series": {name: [list(point) for point in points] for name, points in series.items()}} | more


def _histogram(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    clean = {str(name): _finite(values) for name, values in raw["series"].items()}
    series, lost = {name: values for name, (values, _) in clean.items()}, sum(lost for _, lost in clean.values())
    everything = [value for values in series.values() for value in values]
    if not everything:
        raise ValueError("no numbers to draw")
    edges = _edges(everything, raw.get("range"))
    filled = {name: values for name, values in series.items() if values}
    return {
        "unit": str(raw.get("unit") or ""),
        "edges": edges,
        "counts": {name: np.histogram(values, bins=edges)[0].tolist() for name, values in filled.items()},
        "means": {name: fmean(values) for name, values in filled.items()},
        "medians": {name: median(values) for name, values in filled.items()},
        "numbers": {name: len(values) for name, values in filled.items()},
        "zero": bool(raw.get("zero", min(everything) < 0 < max(everything))),
    }, lost


def _box(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    boxes, lost = [], 0
    for group, of in raw["groups"].items():
        for name, values in of.items():
            numbers, gone = _finite(values)
            lost += gone
            if numbers:
                boxes.append({"group": str(group), "name": str(name), **box_of(numbers)})
    if not boxes:
        raise ValueError("no numbers to draw")
    return {"unit": str(raw.get("unit") or ""), "boxes": boxes}, lost


def box_of(values: Sequence[float]) -> dict[str, Any]:
    """Quartiles, linear between values; whiskers to the last values within 1.5 interquartile ranges; the rest."""
    q1, middle, q3 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (q3 - q1)
    inside = [value for value in values if q1 - reach <= value <= q3 + reach]
    outliers = sorted(value for value in values if not q1 - reach <= value <= q3 + reach)
    # Between quartiles far apart there may be no value at all.
    low, high = min([*inside, q1]), max([*inside, q3])
    return {
        "number": len(values), "low": low, "q1": q1, "median": middle, "q3": q3, "high": high, "outliers": outliers,
    }  # fmt: skip


def _bars(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    labels = [str(label) for label in raw["labels"]]
    series, intervals, lost = {}, {}, 0
    for name, values in raw["series"].items():
        series[str(name)] = [float(value) if is_number(value) else None for value in values]
        if len(series[str(name)]) != len(labels):
            raise ValueError(f"{len(series[str(name)])} values of {name!r} for {len(labels)} labels")
        lost += series[str(name)].count(None)
        given = (raw.get("intervals") or {}).get(name)
        if given:
            intervals[str(name)] = [_interval(pair) for pair in given]
            if len(given) != len(labels):
                raise ValueError(f"{len(given)} intervals of {name!r} for {len(labels)} labels")
    if not any(value is not None for values in series.values() for value in values):
        raise ValueError("no numbers to draw")
    long = len(labels) * len(series) > 8 or max(map(len, labels)) * len(labels) > 46
    spec = {
        "unit": str(raw.get("unit") or ""), "labels": labels, "series": series, "intervals": intervals,
        "horizontal": bool(raw.get("horizontal")) or long,
    }  # fmt: skip
    return spec | _marks(raw, labels, series), lost


def _marks(raw: Mapping[str, Any], labels: Sequence[str], series: Mapping[str, Any]) -> Spec:
    """What bars and points may have besides: whose colours they have, and a value to compare them with."""
    found: Spec = {}
    if raw.get("owners") is not None:
        found["owners"] = [str(name) for name in raw["owners"]]
        if len(found["owners"]) != len(labels) or len(series) > 1:
            raise ValueError(f"{len(found['owners'])} owners for {len(labels)} labels of {len(series)} series")
    return found | ({"line": float(raw["line"])} if is_number(raw.get("line")) else {})


def _points(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    name = str(raw.get("unit") or "value")
    return _bars(
        {**raw, "series": {name: raw["values"]}, "intervals": {name: raw.get("intervals")}, "horizontal": True}
    )


def _pairs(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    series, lost = {}, 0
    for name, points in raw["series"].items():
        known = [[float(x), float(y)] for x, y in points if is_number(x) and is_number(y)]
        lost += len(points) - len(known)
        series[str(name)] = known
    if not any(series.values()):
        raise ValueError("no numbers to draw")
    return {"x": str(raw.get("x") or ""), "y": str(raw.get("y") or ""), "series": series}, lost


def _scatter(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    spec, lost = _pairs(raw)
    total = sum(map(len, spec["series"].values()))
    every = math.ceil(total / _MOST_DOTS)
    spec["series"] = {name: points[::every] for name, points in spec["series"].items()}
    return spec | ({"every": every} if every > 1 else {}), lost


def _lines(raw: Mapping[str, Any]) -> tuple[Spec, int]:
    spec, lost = _pairs(raw)
    return spec | {"diagonal": bool(raw.get("diagonal"))}, lost


_KINDS: dict[str, Callable[[Mapping[str, Any]], tuple[Spec, int]]] = {
    "histogram": _histogram,
    "box": _box,
    "bars": _bars,
    "scatter": _scatter,
    "lines": _lines,
    "points": _points,
}


def _finite(values: Sequence[Any]) -> tuple[list[float], int]:
    """The numbers among values, and how many are none."""
    numbers = [float(value) for value in values if is_number(value)]
    return numbers, len(values) - len(numbers)


def _interval(pair: Any) -> list[float] | None:
    return [float(pair[0]), float(pair[1])] if pair and is_number(pair[0]) and is_number(pair[1]) else None


def _edges(values: Sequence[float], limits: Any) -> list[float]:
    """Bins for all values: unit bins for small whole numbers, else 30 of equal width."""
    low, high = min(values), max(values)
    if all(value.is_integer() for value in values) and high - low <= 60 and limits is None:
        return [low - 0.5 + step for step in range(round(high - low) + 2)]
    if limits is not None:
        # Values beyond the range that was asked for are drawn all the same.
        low, high = min(low, float(limits[0])), max(high, float(limits[1]))
    width = (high - low) / _BINS or 1.0
    # Rounding must not put the greatest value behind the last edge.
    return [*(low + width * step for step in range(_BINS)), max(high, low + width * _BINS)]
