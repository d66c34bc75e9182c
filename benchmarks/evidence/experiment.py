"""What an experiment is: a claim, the runs that test it, and the inequalities that it must show."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import evidence.experiments
import lit_align
from evidence.intervals import interval, judge, overall
from evidence.product import Method, Objective
from evidence.training import train
from evidence.worlds.base import World
from evidence.worlds.data import Data

REGISTRY: dict[str, Experiment] = {}


@dataclass(frozen=True)
class Experiment:
    """A claim of a paper and the code that tests it."""

    slug: str
    claim: str
    paper: str
    world: str
    budget: str
    seeds: int
    function: Callable[[Run], None]
    discussion: str = ""


def experiment(
    *, claim: str, paper: str, world: str, budget: str, seeds: int = 5, discussion: str = ""
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register a function as an experiment; its name is the experiment's.

    Args:
        claim: what the paper says, in one sentence that can be wrong.
        paper: authors or title, with an arXiv id.
        world: where it is tested.
        budget: what all methods get alike.
        seeds: number of seeds.
        discussion: what to think of the outcome, where it is not what the paper says.
    """

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        name = function.__name__
        assert name not in REGISTRY, f"two experiments are called {name}"
        REGISTRY[name] = Experiment(name, claim, paper, world, budget, seeds, function, discussion)
        return function

    return register


def load_all() -> dict[str, Experiment]:
    """All experiments, by name."""
    for module in pkgutil.iter_modules(evidence.experiments.__path__):
        importlib.import_module(f"evidence.experiments.{module.name}")
    return dict(sorted(REGISTRY.items()))


@dataclass
class Run:
    """One execution of an experiment: it trains, keeps what was measured, and compares."""

    experiment: Experiment
    shrink: float = 1.0
    """Share of the training steps; below 1 only to try the code."""
    seeds: int = 0
    methods: list[Method] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    measures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """What was measured: measure, then label, then a value per seed."""
    expectations: list[dict[str, Any]] = field(default_factory=list)
    spec: list[dict[str, Any]] = field(default_factory=list)
    plots: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seeds = self.seeds or self.experiment.seeds

    # ------------------------------------------------------------------ training

    def present(self, *methods: Method) -> list[Method]:
        """Those methods that the product has; the others are noted as awaited."""
        for wanted in methods:
            if wanted.exists():
                if wanted not in self.methods:
                    self.methods.append(wanted)
            elif wanted.name not in self.waiting:
                self.waiting.append(wanted.name)
        return [wanted for wanted in methods if wanted.exists()]

    def needs(self, *names: str) -> bool:
        """Whether the product has all these names; those that it lacks are noted as awaited."""
        missing = [name for name in names if getattr(lit_align, name, None) is None]
        self.waiting += [name for name in missing if name not in self.waiting]
        return not missing

    def steps(self, number: int) -> int:
        """Number of training steps."""
        return max(2, math.ceil(number * self.shrink))

    def fit(
        self, world: World, method: Method, data: Data, *, steps: int, learning_rate: float, optimiser: str = "adam"
    ) -> Tensor:
        """The policy's state after training from the reference, detached."""
        objective = Objective(world, method, data)
        theta = train(objective, world.start(), self.steps(steps), learning_rate, optimiser)
        with torch.no_grad():
            return world.state(theta)

    # ------------------------------------------------------------------ results

    def measure(self, label: str | Method, **values: Tensor) -> None:
        """Keep measures of one method, each [S]; underscores of their names are shown as spaces."""
        label = label.label if isinstance(label, Method) else label
        for name, tensor in values.items():
            assert tensor.shape == (self.seeds,), f"{name} of {label}: {tuple(tensor.shape)}, not one per seed"
            assert tensor.isfinite().all(), f"{name} of {label} diverged: {tensor.tolist()}"
            self.measures.setdefault(name, {})[label] = [float(f"{value:.8g}") for value in tensor.tolist()]

    def expect(self, measure: str, left: str, sign: str, right: str | float, by: float = 0.0, note: str = "") -> None:
        """Compare a measure of two methods, or of one with a number, seed by seed; nothing where one is awaited.

        Args:
            measure: name of the measure.
            left: label of the first.
            sign: ">" or "<".
            right: label of the second, or a number.
            by: least difference.
            note: what the comparison stands for.
        """
        values = self.measures.get(measure, {})
        if left not in values or (isinstance(right, str) and right not in values):
            return
        one = values[left]
        two = values[right] if isinstance(right, str) else [right] * len(one)
        direction = 1 if sign == ">" else -1
        gaps = [direction * (a - b) - by for a, b in zip(one, two, strict=True)]
        mean, half_width = interval([a - b for a, b in zip(one, two, strict=True)])
        shown = right if isinstance(right, str) else f"{right:.6g}"
        margin = f" {'+' if direction * by > 0 else '-'} {abs(by):g}" if by else ""
        self.expectations.append(
            {
                "measure": measure,
                "text": f"{left} {sign} {shown}{margin}",
                "note": note,
                "left": interval(one).mean,
                "right": interval(two).mean,
                "difference": mean,
                "half_width": None if math.isnan(half_width) else half_width,
                "held_in": sum(gap > 0 for gap in gaps),
                "of": len(gaps),
                "verdict": judge(gaps),
            }
        )

    def expect_order(self, measure: str, sign: str, *labels: str) -> None:
        """Expect a chain of inequalities; labels that are awaited are left out."""
        known = [label for label in labels if label in self.measures.get(measure, {})]
        for left, right in itertools.pairwise(known):
            self.expect(measure, left, sign, right)

    def compare_with_spec(self, measure: str, label: str, values: Iterable[float]) -> None:
        """Put numbers of the method's written spec, by seed, beside those measured here."""
        mine = self.measures.get(measure, {}).get(label)
        if mine is not None and self.shrink == 1:
            values = list(values)
            self.spec.append({"measure": measure, "label": label, "spec": values, "here": mine[: len(values)]})

    def plot_lines(
        self,
        measure: str,
        x_label: str,
        lines: dict[str, dict[float, str]],
        log_x: bool = False,
        minus: str | None = None,
    ) -> None:
        """Draw a measure against a number instead of by method.

        Args:
            measure: name of the measure.
            x_label: what the number is.
            lines: for each line, the label of the measure at each x.
            log_x: whether x is shown on a logarithmic scale.
            minus: a line that is subtracted from the others, seed by seed.
        """
        known = self.measures.get(measure, {})
        drawn = {line: [[x, label] for x, label in points.items() if label in known] for line, points in lines.items()}
        drawn = {line: points for line, points in drawn.items() if points}
        self.plots.append({"measure": measure, "x": x_label, "lines": drawn, "log_x": log_x, "minus": minus})

    def plot_bars(self, *measures: str) -> None:
        """Draw these measures by method."""
        self.plots += [{"measure": measure} for measure in measures if measure in self.measures]

    def result(self, seconds: float) -> dict[str, Any]:
        """Everything as one JSON object; seconds are those of the processor, on one core."""
        about = self.experiment
        return {
            "experiment": about.slug,
            "claim": about.claim,
            "paper": about.paper,
            "world": about.world,
            "budget": about.budget,
            "seeds": self.seeds,
            "discussion": about.discussion,
            "verdict": overall([expectation["verdict"] for expectation in self.expectations]),
            "waiting": self.waiting,
            "methods": [{"label": m.label, "class": m.name, "settings": m.kwargs} for m in self.methods],
            "expectations": self.expectations,
            "spec": self.spec,
            "measures": self.measures,
            "plots": self.plots,
            "seconds": round(seconds, 1),
            "torch": torch.__version__,
        }


def execute(about: Experiment, shrink: float = 1.0, seeds: int = 0) -> dict[str, Any]:
    """Run one experiment; the state of the global random generator is left as it was."""
    started = _cpu_seconds()
    run = Run(about, shrink, seeds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        about.function(run)
    return run.result(_cpu_seconds() - started)


def _cpu_seconds() -> float:
    """What this process and those that it started have computed."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
