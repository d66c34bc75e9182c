"""The numbers that a page begins with: of each evaluation, and of each run that has none."""

from __future__ import annotations

from collections.abc import Sequence

from lit_align.evaluation.report_blocks import Cards, Headline, number
from lit_align.evaluation.run_files import Row, RunFiles, rows_of
from lit_align.evaluation.series import HELD_OUT, collect, is_number

_METRICS = (
    ("rewards/accuracies", "reward accuracy", "%"),
    ("rewards/margins", "reward margin", ""),
    ("accuracy", "accuracy", "%"),
    ("margin", "margin", ""),
    ("loss", "loss", ""),
    ("logps/chosen", "log-probability of chosen responses", "nats"),
)
"""Metrics that head the page of a run without evaluation.json: name, words, unit."""
_MOST_CARDS = 6
_ROUNDS_NOTE = (
    "Rewards, and what is made of them, are against the reference of their round: where it moves with the rounds, the "
    "first and the last cannot be compared."
)


def labels_of(run: RunFiles) -> tuple[str, str]:
    """Names of what was before and after."""
    labels = run.evaluation.get("labels")
    if isinstance(labels, list) and len(labels) == 2:
        return str(labels[0]), str(labels[1])
    return ("before", "after") if run.evaluation else ("first", "last")


def headlines(runs: Sequence[RunFiles]) -> list[Cards]:
    """Named numbers of each evaluation; of runs without one, the first and the last value of what they logged."""
    groups: list[Cards] = []
    several = len(runs) > 1
    for run in runs:
        found = rows_of(run.evaluation.get("headline"))
        if found:
            lines = [_headline(row) for row in found[:_MOST_CARDS]]
            rest = len(found) - len(lines)
            notes = [f"{rest} more in its section."] if rest else []
            # Of an evaluation with tables or figures, the section says it; of several like it, the first one.
            about = "" if run.evaluation.get("tables") or run.evaluation.get("figures") else run.evaluation.get("about")
            if several and about and not any(str(about) in cards.note for cards in groups):
                notes.insert(0, str(about))
            groups.append(Cards(labels_of(run), lines, run.label if several else "", " ".join(notes)))
    if not several:
        rows = [] if groups else _logged(runs[0])[:_MOST_CARDS]
        note = _ROUNDS_NOTE if len([*(runs[0].folder / "rounds").glob("round_*")]) > 1 else ""
        return [*groups, *([Cards(labels_of(runs[0]), [_headline(row) for row in rows], "", note)] if rows else [])]
    trained = [run for run in runs if run.metrics and not rows_of(run.evaluation.get("headline"))]
    firsts = [(run, _logged(run)[:1]) for run in trained]
    named = [
        row | {"name": run.label, "series": run.label, "note": f"{row['name']}; {row['note']}"}
        for run, rows in firsts
        for row in rows
    ]
    if named:
        # Bars of before and after would have the colours of other things on this page.
        lines = [_headline(row)._replace(shares=()) for row in named]
        groups.append(Cards(("first", "last"), lines, "Training runs" if len(named) > 1 else "Training run"))
    return groups


def _headline(row: Row) -> Headline:
    values, unit = (row.get("before"), row.get("after")), str(row.get("unit") or "")
    before, after = (number(value, unit) for value in values)
    shares = tuple(min(1.0, max(0.0, value)) for value in values if unit == "%" and is_number(value))
    given, chance = row.get("interval"), row.get("chance")
    interval, between = None, ""
    if isinstance(given, list) and len(given) == 2 and is_number(given[0]) and is_number(given[1]):
        interval = (given[0], given[1])
        between = f"{number(given[0], unit).removesuffix(' %')} to {number(given[1], unit)}"
    return Headline(
        str(row.get("name", "")),
        # An evaluation of one model has nothing to compare with; a comparison may lack one of its two numbers.
        before if "before" in row else "",
        after,
        "" if unit == "%" else unit,
        str(row.get("note") or ""),
        shares,
        values,
        interval,
        between,
        chance if is_number(chance) else None,
        str(row.get("series") or ""),
    )


def _logged(run: RunFiles) -> list[Row]:
    series = collect(run.metrics)
    rows: list[Row] = []
    for name, words, unit in _METRICS:
        held_out = HELD_OUT + name in series
        points = series.get(HELD_OUT + name if held_out else name, [])
        if points:
            (first_step, first), (last_step, last) = points[0], points[-1]
            where = "held-out data" if held_out else "training batches"
            note = f"{where}, step {first_step:.0f} and step {last_step:.0f}"
            if len(points) == 1:
                rows.append({"name": words, "unit": unit, "after": last, "note": f"{where}, step {last_step:.0f}"})
            else:
                rows.append({"name": words, "unit": unit, "before": first, "after": last, "note": note})
    return rows
