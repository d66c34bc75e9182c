"""From the runs of `lit-align compare` to one table: means, intervals, and what they tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lit_align.evaluation.held_out import METRICS, OF_ANY_POLICY, Metric, columns_of
from lit_align.evaluation.intervals import Interval, over_examples, over_runs

Cells = dict[str, dict[str, Any]]
"""By the key of a metric: `values` of the seeds, `mean`, `low`, `high`, what the interval is `over`, and `held_out`,
the interval over held-out examples."""

INITIAL = "initial policy"
ALONE, AMONG = "*", "~"
"""Marks of the best value of a column, and of it and those that are not told apart from it."""
MARKS = {
    ALONE: f"{ALONE} best of its column, told apart from all others",
    AMONG: f"{AMONG} the best of its column and those not told apart from it",
}


def cells_of(results: Sequence[Mapping[str, Any]], initial: Mapping[str, Any]) -> Cells:
    """The numbers of one method.

    Args:
        results: of its runs, one per seed, in the order of the seeds.
        initial: what `measure_policy` says of the initial policy.
    """
    runs = [columns_of(result["held_out"], initial) for result in results]
    cells: Cells = {}
    for of in ("pairs", "prompts"):
        keys = [metric.key for metric in METRICS if metric.of == of and runs[0][metric.key]]
        averaged = [[fmean(seeds) for seeds in zip(*(run[key] for run in runs), strict=True)] for key in keys]
        for key, held_out in zip(keys, over_examples(averaged) if keys else [], strict=True):
            cells[key] = _cell([fmean(run[key]) for run in runs], of, held_out)
    for key, values in {
        "seconds": [result["seconds"] for result in results],
        "tokens_per_second": [result["tokens"] / max(1e-9, result["seconds"]) for result in results],
        "peak_memory": [result["peak_bytes"] / 2**20 for result in results],
    }.items():
        cells[key] = _cell(values, "run", None)
    return cells


def cells_of_initial(initial: Mapping[str, Any]) -> Cells:
    """The numbers of the initial policy: those that compare with nothing."""
    columns = columns_of(initial, initial)
    cells: Cells = {}
    for metric in METRICS:
        if metric.key in OF_ANY_POLICY and columns[metric.key]:
            (held_out,) = over_examples([columns[metric.key]])
            cells[metric.key] = _cell([held_out.mean], metric.of, held_out)
    return cells


def _cell(values: list[float], of: str, held_out: Interval | None) -> dict[str, Any]:
    """One number; over seeds where there are some, else over the held-out examples of the one run."""
    found, over = over_runs(values), "seeds"
    if len(values) == 1:
        found, over = held_out or found, of if held_out else ""
    return {
        "values": values,
        **found._asdict(),
        "over": over,
        "held_out": [held_out.low, held_out.high] if held_out else None,
    }


# -------------------------------------------------------------------- what the intervals tell apart


def told_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two cells differ beyond doubt: neither intervals over seeds nor those over held-out examples overlap."""
    if _interval(one).overlaps(_interval(other)):
        return False
    if one["held_out"] is None or other["held_out"] is None:
        return True
    return not Interval(0.0, *one["held_out"]).overlaps(Interval(0.0, *other["held_out"]))


def _interval(cell: Mapping[str, Any]) -> Interval:
    return Interval(cell["mean"], cell["low"], cell["high"])


def at_the_top(metric: Metric, cells: Mapping[str, Cells]) -> list[str]:
    """The method with the best mean, and those that are not told apart from it.

    Args:
        metric: which number.
        cells: by method.

    Returns:
        Names, the best mean first; none where nothing is better or worse, or there is one method.
    """
    rows = {name: row[metric.key] for name, row in cells.items() if metric.key in row}
    if not metric.better or len(rows) < 2:
        return []
    ordered = sorted(rows, key=lambda name: rows[name]["mean"], reverse=metric.better == "high")
    best, *others = ordered
    return [best, *(name for name in others if not told_apart(rows[best], rows[name]))]


def verdicts(cells: Mapping[str, Cells]) -> list[str]:
    """What can be said of the numbers of which more or less is better: a sentence for each, and one for the others."""
    sentences, open_ones = [], []
    for metric in METRICS:
        top = at_the_top(metric, cells)
        rest = [name for name in cells if metric.key in cells[name] and name not in top]
        if top and not rest:
            open_ones.append(metric.title)
        elif len(top) == 1:
            sentences.append(f"{metric.title}: {top[0]} is told apart from all others, at the top")
        elif top:
            said = f"{_list(top)} are not told apart, at the top; {_list(rest)} {_is(rest)} told apart from {top[0]}"
            sentences.append(f"{metric.title}: {said}")
    if open_ones:
        sentences.append(f"no method is told apart from the best in {_list(open_ones)}")
    return sentences


def marks(cells: Mapping[str, Cells]) -> dict[tuple[str, str], str]:
    """Marks by (method, key of the metric); none in a column where no method is told apart from the best."""
    found: dict[tuple[str, str], str] = {}
    for metric in METRICS:
        top = at_the_top(metric, cells)
        if len(top) < sum(metric.key in row for row in cells.values()):
            found |= {(name, metric.key): ALONE if len(top) == 1 else AMONG for name in top}
    return found


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


# -------------------------------------------------------------------- the table in words


def shown(cell: Mapping[str, Any] | None, unit: str) -> tuple[str, str]:
    """A mean and what it may be off by, as people read them; a dash where there is nothing."""
    if cell is None:
        return "–", ""
    scale, mean = (100 if unit == "%" else 1), abs(cell["mean"])
    digits = 1 if unit in ("%", "s", "tokens") or mean >= 100 else 2
    digits = 0 if unit in ("tokens/s", "MiB") or mean >= 1000 else digits
    half = f"±{scale * _interval(cell).half_width:,.{digits}f}" if cell["low"] is not None else ""
    return f"{scale * cell['mean']:,.{digits}f}", half


def heading(metric: Metric) -> str:
    """The head of a column."""
    return f"{metric.title}, {metric.unit}"


def rows_of(comparison: Mapping[str, Any]) -> list[tuple[str, Cells]]:
    """Names and cells: the initial policy, then the methods that have results."""
    return [(INITIAL, comparison["initial"]["cells"]), *_by_method(comparison).items()]


def _by_method(comparison: Mapping[str, Any]) -> dict[str, Cells]:
    """Cells of the methods that have results."""
    return {row["method"]: row["cells"] for row in comparison["methods"] if row["cells"]}


def as_markdown(comparison: Mapping[str, Any]) -> str:
    """The whole table, and below it what it tells apart."""
    lines = [f"| method | {' | '.join(map(heading, METRICS))} |", "|---|" + "---:|" * len(METRICS)]
    for name, texts in _texts(comparison):
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in below(comparison))]) + "\n"


def below(comparison: Mapping[str, Any]) -> list[str]:
    """What stands below the table: what its marks mean, what it tells apart, and notes."""
    used = set(marks(_by_method(comparison)).values())
    meanings = [meaning for mark, meaning in MARKS.items() if mark in used]
    said = [*comparison["verdicts"], comparison["verdicts_hold"]] if comparison["verdicts"] else []
    return [*meanings, *said, *comparison["notes"]]


def as_text(comparison: Mapping[str, Any], width: int) -> str:
    """The table for a terminal, in as many blocks as its width makes of it.

    Args:
        comparison: see `tools.compare`.
        width: characters in a line.
    """
    rows = _with_room_for_marks(_texts(comparison))
    first = [len(max([name for name, _ in rows], key=len))]
    blocks: list[list[int]] = [[]]
    widths = [max(len(heading(m)), *(len(texts[i]) for _, texts in rows)) for i, m in enumerate(METRICS)]
    for index, columns in enumerate(widths):
        if blocks[-1] and first[0] + sum(2 + widths[i] for i in blocks[-1]) + 2 + columns > width:
            blocks.append([])
        blocks[-1].append(index)
    lines: list[str] = []
    for block in blocks:
        heads = ["".ljust(first[0]), *(heading(METRICS[i]).rjust(widths[i]) for i in block)]
        lines += ["  ".join(heads), "-" * len("  ".join(heads))]
        lines += [
            "  ".join([name.ljust(first[0]), *(texts[i].rjust(widths[i]) for i in block)]).rstrip()
            for name, texts in rows
        ]
        lines.append("")
    return "\n".join(lines)


def _with_room_for_marks(rows: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """The same texts, so that numbers of a column with marks stand below each other."""
    columns = [list(column) for column in zip(*(texts for _, texts in rows), strict=True)]
    for column in columns:
        if any(text.endswith((ALONE, AMONG)) for text in column):
            column[:] = [text if text.endswith((ALONE, AMONG)) else f"{text}  " for text in column]
    return [(name, list(texts)) for (name, _), texts in zip(rows, zip(*columns, strict=True), strict=True)]


def _texts(comparison: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """For each row its name and the texts of its cells, with marks."""
    marked = marks(_by_method(comparison))
    return [
        (
            name,
            [
                " ".join(filter(None, (*shown(cells.get(metric.key), metric.unit), marked.get((name, metric.key)))))
                for metric in METRICS
            ],
        )
        for name, cells in rows_of(comparison)
    ]
