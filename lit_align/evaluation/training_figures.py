"""Which metrics of a run are drawn together, and the curves of several runs in one figure per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_align.evaluation.figure_specs import Spec, lines
from lit_align.evaluation.series import HELD_OUT, Points, collect, extremes, smooth, thin


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
SPEED = (
    Panel("Throughput", ("tokens_per_second",), "tokens per second"),
    Panel("Time per optimiser step", ("seconds_per_step",), "seconds"),
    Panel("Memory of the process", ("process_gib",), "GiB"),
    Panel("Peak memory on the GPU", ("gpu_peak_gib",), "GiB"),
)
_GIB = 1 << 30
_FEW_POINTS = 20
_EXACT = frozenset({"learning_rate", "process_gib", "gpu_peak_gib"})
"""Metrics without noise, drawn as they are."""


def training_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Spec]:
    """Figures of everything that was logged.

    Args:
        runs: name -> records of metrics.jsonl; held-out metrics begin with `val/`. Metrics that no panel names get
            panels of their own, unless they never change.
    """
    series = {name: collect(records) for name, records in runs.items()}
    named = {metric for panel in PANELS for metric in panel.names}
    everything = {metric.removeprefix(HELD_OUT) for of in series.values() for metric in of}
    others = [
        Panel(metric.replace("_", " "), (metric,))
        for metric in sorted(everything - named)
        # Those of rounds have a section of their own.
        if not metric.startswith("rounds/") and any(_changes(of, metric) for of in series.values())
    ]
    return _figures((*PANELS, *others), series)


def speed_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Spec]:
    """Figures of timing.jsonl, by the name of the run."""
    return _figures(SPEED, {name: collect(map(_in_gib, records)) for name, records in runs.items()})


def _in_gib(record: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: record.get(f"{name}_bytes") for name in ("process", "gpu_peak")}
    return dict(record) | {f"{name}_gib": size / _GIB for name, size in sizes.items() if isinstance(size, int)}


def _figures(panels: Sequence[Panel], series: Mapping[str, Mapping[str, Points]]) -> list[Spec]:
    found: list[Spec] = []
    drawn: list[list[Points]] = []
    for panel in panels:
        # Of several runs, every metric has a figure: colours tell the runs apart.
        parts = [panel] if len(series) == 1 else [_part(panel, name) for name in panel.names]
        for part in parts:
            shown = {run: _shown(of, part) for run, of in series.items()}
            points = [points for of in shown.values() for points in of.values()]
            # A loss that is the negative log-likelihood is drawn once.
            if points and points not in drawn:
                drawn.append(points)
                found.append(_figure(part, shown))
    return found


def _part(panel: Panel, name: str) -> Panel:
    side = name.rpartition("/")[2].replace("_", " ")
    return panel if len(panel.names) == 1 else Panel(f"{panel.title}: {side}", (name,), panel.unit)


def _shown(series: Mapping[str, Points], panel: Panel) -> dict[str, Points]:
    return {full: series[full] for name in panel.names for full in (name, HELD_OUT + name) if series.get(full)}


def _figure(panel: Panel, runs: Mapping[str, Mapping[str, Points]]) -> Spec:
    """Training: every value pale, their moving average strong. Held-out: dots."""
    series: dict[str, Points] = {}
    looks: dict[str, str] = {}
    owners: dict[str, str] = {}
    alone = len(runs) == 1
    for run, metrics in runs.items():
        for name, points in metrics.items():
            side = name.rpartition("/")[2].replace("_", " ")
            what = (side if len(panel.names) > 1 else "training") if alone else run
            owner = what if alone else run
            if name.startswith(HELD_OUT):
                what, look = (f"{what}, held out" if what != "training" else "held out"), "dots"
                series[what], looks[what], owners[what] = thin(points), look, owner
            elif name in _EXACT or len(points) < _FEW_POINTS:
                series[what], looks[what], owners[what] = extremes(points), "exact", owner
            else:
                pale, means = f"{what}, as logged", thin(points)
                averages = smooth([value for _, value in means])
                series[pale], looks[pale], owners[pale] = extremes(points), "pale", owner
                series[what] = [(step, average) for (step, _), average in zip(means, averages, strict=True)]
                looks[what], owners[what] = "strong", owner
    percent = panel.unit == "%"
    return lines(
        panel.title, "" if percent else panel.unit, series,
        percent=percent, looks=looks, colours=owners, legend=not alone,
    )  # fmt: skip


def _changes(series: Mapping[str, Points], name: str) -> bool:
    values = {value for n in (name, HELD_OUT + name) for _, value in series.get(n, [])}
    return len(values) > 1
