"""The section that compares runs: what each came to, and in what they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import yaml

from lit_align.evaluation.plain import flat
from lit_align.evaluation.report_blocks import Block, Section, Share, ShownCell, ShownTable, Table, shown
from lit_align.evaluation.run_files import RunFiles
from lit_align.evaluation.series import HELD_OUT, Points, collect, is_number
from lit_align.evaluation.training_figures import PANELS

_HIGHER = ("accuracies", "accuracy", "margins", "margin", "mean_token_accuracy", "win_rate")
_LOWER = ("loss", "nll_loss")
_NOT_RESULTS = frozenset({"learning_rate", "grad_norm"})
"""What a run was given or went through; the curves show it."""
_PERCENT = frozenset(name for panel in PANELS if panel.unit == "%" for name in panel.names)


class _Value(NamedTuple):
    """What one metric of a run came to."""

    final: float | None
    best: float | None = None
    """None where it is a matter of opinion which one is."""
    step: int | None = None
    """Of the best one."""

    def read(self) -> ShownCell:
        better = self.best is not None and self.best != self.final
        return ShownCell(shown(self.final), f"best {shown(self.best)}, step {self.step}" if better else "")


def comparison(runs: Sequence[RunFiles]) -> list[Section]:
    """Of several runs, what each came to and in what they differ."""
    trained = [run for run in runs if run.metrics]
    blocks: list[Block] = []
    if len(trained) > 1:
        blocks += _values(trained)
    known = [run for run in runs if run.config]
    if len(known) > 1:
        blocks.append(_differences(known))
    lead = "Values of single steps are noisy: the curves show all of them." if len(trained) > 1 else ""
    return [Section("comparison", "Runs compared", lead, blocks)] if blocks else []


def _values(runs: Sequence[RunFiles]) -> list[Table]:
    """Final and best values of what the runs have logged: of metrics that several have, and of the others."""
    series = [collect(run.metrics) for run in runs]
    known = [name for panel in PANELS for name in panel.names if name not in _NOT_RESULTS]
    # Held-out data say more than the batches that a model has just learnt from.
    everything = [f"{kind}{name}" for kind in (HELD_OUT, "") for name in known]
    names = [name for name in everything if any(name in of for of in series)]
    common = [name for name in names if sum(name in of for of in series) > 1]
    values = {name: [_value(name, of.get(name, [])) for of in series] for name in names}
    steps = [max((int(row["step"]) for row in run.metrics if is_number(row.get("step"))), default=None) for run in runs]
    columns = ["metric"]
    for run in runs:
        columns += [f"{run.label}: final", f"{run.label}: best", f"{run.label}: step of the best"]
    rows: list[list[Any]] = [["last step", *(cell for step in steps for cell in (step, None, None))]]
    rows += [[name, *(cell for value in values[name] for cell in value)] for name in common]
    read = [[ShownCell("last step"), *(ShownCell(shown(step)) for step in steps)]]
    read += [[ShownCell(name), *(value.read() for value in values[name])] for name in common]
    note = "val/ is held-out data. The best value is named where it is plain which one that is, and it is not the last."
    if len({run.method for run in runs}) > 1:
        note += " Losses of different methods are different things."
    numbers = [False, *[True] * len(runs)]
    shown_as = ShownTable(["metric", *(run.label for run in runs)], numbers, read)
    tables = [Table("final_and_best", "Final and best values", note, columns, rows, reading=shown_as)]
    alone = [(name, run.label, value) for name in names if name not in common
             for run, value in zip(runs, values[name], strict=True) if value.final is not None]  # fmt: skip
    if alone:
        rest = [[name, label, *value] for name, label, value in alone]
        read = [[ShownCell(name), ShownCell(label), value.read()] for name, label, value in alone]
        shown_as = ShownTable(["metric", "run", "final"], [False, False, True], read)
        title = "Metrics that only one of the runs has"
        columns = ["metric", "run", "final", "best", "step of the best"]
        tables.append(Table("only_one", title, "", columns, rest, folded=True, reading=shown_as))
    return tables


def _value(name: str, points: Points) -> _Value:
    if not points:
        return _Value(None)
    kind: Callable[[float], float] = Share if name.removeprefix(HELD_OUT) in _PERCENT else float
    last = name.rpartition("/")[2]
    if last not in (*_HIGHER, *_LOWER):
        return _Value(kind(points[-1][1]))
    sign = 1 if last in _HIGHER else -1
    step, best = max(points, key=lambda point: sign * point[1])
    return _Value(kind(points[-1][1]), kind(best), int(step))


def _differences(runs: Sequence[RunFiles]) -> Table:
    """Settings that are not the same everywhere."""
    settings = [dict(flat(dict(run.config))) for run in runs]
    names = dict.fromkeys(name for of in settings for name in of)
    rows = [
        [name, *(None if name not in of else _setting(of[name]) for of in settings)]
        for name in names
        if any(of.get(name) != settings[0].get(name) for of in settings)
    ]
    same = "Settings that are the same everywhere, and those that are null, are left out."
    note = same if rows else "The runs have the same settings, as far as their folders say."
    columns = ["setting", *(run.label for run in runs)]
    # Settings are read as they were written.
    read = ShownTable(columns, [False] * len(columns), [[ShownCell(shown(cell)) for cell in row] for row in rows])
    return Table("settings", "Settings in which they differ", note, columns, rows, reading=read)


def _setting(value: Any) -> Any:
    return (
        value if isinstance(value, (str, int, float, bool)) else yaml.safe_dump(value, default_flow_style=True).strip()
    )
