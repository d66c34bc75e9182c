"""Series of metrics over steps: read from records, made short without losing what stands out, and smoothed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

Points = list[tuple[float, float]]

HELD_OUT = "val/"
NO_METRICS = frozenset({"step", "epoch", "num_tokens"})
_MOST_POINTS = 400


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def collect(records: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """(step, value) of every metric that is a finite number, by name."""
    series: dict[str, Points] = {}
    for record in records:
        step = record.get("step")
        if not is_number(step):
            continue
        for name, value in record.items():
            if name.removeprefix(HELD_OUT) not in NO_METRICS and is_number(value):
                series.setdefault(name, []).append((float(step), float(value)))
    return series


def thin(points: Points) -> Points:
    """At most some 400 points: means over as many stretches, so that long runs make small pages."""
    return [
        (math.fsum(step for step, _ in part) / len(part), math.fsum(value for _, value in part) / len(part))
        for part in _stretches(points, _MOST_POINTS)
    ]


def extremes(points: Points) -> Points:
    """At most some 800 points: the least and the greatest of as many stretches, so that no peak is lost."""
    if len(points) <= 2 * _MOST_POINTS:
        return points
    # Lines begin and end where the run does.
    kept = {points[0], points[-1]}
    for part in _stretches(points, _MOST_POINTS):
        kept |= {min(part, key=_value), max(part, key=_value)}
    return sorted(kept)


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about a twelfth of the values; windows are cut at both ends."""
    reach = max(1, len(values) // 24)
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]


def _stretches(points: Points, most: int) -> Iterable[Points]:
    width = max(1, math.ceil(len(points) / most))
    return (points[start : start + width] for start in range(0, len(points), width))


def _value(point: tuple[float, float]) -> float:
    return point[1]
