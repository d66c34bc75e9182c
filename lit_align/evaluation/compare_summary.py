"""What `lit-align compare` has found, as one JSON object: comparison.json, of which table and page are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

from lit_align import __version__
from lit_align.evaluation.compare_table import cells_of, cells_of_initial, verdicts

_RUN = ("method", "seed", "steps", "seconds", "tokens", "peak_bytes", "memory", "device", "versions")
_MOST_WARNINGS = 3
_HOLD = "Told apart is what neither the seeds nor the choice of held-out examples explain."
_HOLD_OF_ONE_SEED = (
    "Told apart is what the choice of held-out examples does not explain; another seed may turn it around."
)


def summarise(
    about: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    initial: Mapping[str, Any],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    """Put everything together.

    Args:
        about: of all runs: `command`, `policy`, `train`, `held_out`, `steps`, `seeds`, `examples_per_step`, `asking`.
        methods: of each method: `method`, `class`, `data`, `convert`, `arguments`, `examples`.
        results: by method, what is known of its runs, in the order of the seeds.
        initial: what `measure_policy` says of the initial policy.
        failures: by name of a run, what stopped it.

    Returns:
        A JSON object: `about` with what follows from the results, `initial` and `methods` with their `cells`,
        `verdicts`, `notes` and `runs`.
    """
    rows = [_method(method, results[method["method"]], initial, about) for method in methods]
    cells = {row["method"]: row["cells"] for row in rows if row["cells"]}
    runs = [result for method in methods for result in results[method["method"]]]
    counts = {"pairs": len(initial["pairs"]["chosen_logps"]), "prompts": len(initial["replies"])}
    return {
        **about,
        **counts,
        "lit_align": __version__,
        "written": datetime.now().astimezone().isoformat(timespec="minutes"),
        "initial": {"cells": cells_of_initial(initial)},
        "methods": rows,
        "verdicts": verdicts(cells),
        "verdicts_hold": _HOLD if len(about["seeds"]) > 1 else _HOLD_OF_ONE_SEED,
        "notes": [*_how_measured(about, counts, initial), *_how_different(about, rows, runs), *_failed(failures)],
        "runs": [{name: run[name] for name in _RUN} for run in runs],
    }


def _method(
    method: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    initial: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    seen = about["steps"] * about["examples_per_step"] if about["examples_per_step"] else None
    return {
        **method,
        "seeds": [result["seed"] for result in results],
        "passes": seen / method["examples"] if seen and method["examples"] else None,
        "tokens": fmean(result["tokens"] for result in results) if results else None,
        "cells": cells_of(results, initial) if results else {},
    }


def _how_measured(about: Mapping[str, Any], counts: Mapping[str, int], initial: Mapping[str, Any]) -> list[str]:
    seeds, asking = len(about["seeds"]), about["asking"]
    if seeds > 1:
        intervals = (
            f"± is half of the 95 % interval of the mean over {seeds} seeds (Student's t); that of the initial policy "
            "is over held-out examples (bootstrap). Two methods are told apart if intervals of neither kind overlap."
        )
    else:
        intervals = (
            "± is half of the 95 % interval of the mean over held-out examples (bootstrap). With one seed nothing is "
            "known of what another seed would give: --seeds 0,1,2 tells."
        )
    how = "the likeliest token each time" if asking["temperature"] == 0 else f"temperature {asking['temperature']:g}"
    replies = f"Replies to {counts['prompts']} held-out prompts, {how}, at most {asking['max_new_tokens']} tokens."
    if initial["left_out"]:
        replies += f" {initial['left_out']} prompts leave no room for a reply, and were left out."
    return [intervals, f"Measured on {counts['pairs']} held-out pairs.", replies]


def _how_different(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """In what the runs are not alike, and what their memory is of."""
    notes = [
        f"{row['method']} learns from {row['data']}, made by {row['convert']}: a step takes as many examples of these."
        for row in rows
        if row["convert"]
    ]
    notes += [
        f"{run['method']}, seed {run['seed']}: ended after {run['steps']} of {about['steps']} steps."
        for run in runs
        if run["steps"] != about["steps"]
    ]
    notes += [
        f"{row['method']}: without the {' and '.join(row['left_out'])} of its own configuration, which others have not."
        for row in rows
        if row["left_out"]
    ]
    for row in rows:
        said = list(dict.fromkeys(w for run in runs if run["method"] == row["method"] for w in run["warnings"]))
        more = f" (and {len(said) - _MOST_WARNINGS} more, in its logs)" if len(said) > _MOST_WARNINGS else ""
        notes += [f"{row['method']} warned: {'; '.join(said[:_MOST_WARNINGS])}{more}"] if said else []
    of = {"GPU": "of tensors on the GPU", "process": "of the whole process in the main memory, libraries included"}
    notes.append(f"Peak memory is that {' or '.join(sorted({of[run['memory']] for run in runs}))}.")
    for name, values in (
        ("devices", {run["device"] for run in runs}),
        ("versions", {", ".join(f"{key} {value}" for key, value in run["versions"].items()) for run in runs}),
    ):
        if len(values) > 1:
            notes.append(f"The runs were made on different {name}: {'; '.join(sorted(values))}.")
    return notes


def _failed(failures: Mapping[str, str]) -> list[str]:
    return [f"Not in the table: {name}. {why}" for name, why in failures.items()]
