"""Results on disk: a JSON file and a figure per experiment, and one page over all of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from evidence.figures import draw as draw_figure
from evidence.intervals import interval

MARKS = {"held": "held", "mixed": "**mixed**", "not held": "**not held**", None: "waiting"}


def save(result: dict[str, Any], folder: Path) -> None:
    """Write an experiment's numbers and its figure."""
    path = folder / f"{result['experiment']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(json.loads(path.read_text()), folder)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draw an experiment's figure again."""
    draw_figure(result, folder / f"{result['experiment']}.png")


def write_table(folder: Path, known: list[str]) -> None:
    """Write README.md over all results in the folder, of this run or of earlier ones.

    Args:
        folder: where the JSON files are.
        known: names of all experiments there are.
    """
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    results = {name: results[name] for name in known if name in results}
    (folder / "README.md").write_text("\n".join(_page(results, known)) + "\n")


def _page(results: dict[str, Any], known: list[str]) -> list[str]:
    counts = {
        verdict: sum(r["verdict"] == verdict for r in results.values()) for verdict in ("held", "mixed", "not held")
    }
    without = [name for name in known if name not in results or results[name]["verdict"] is None]
    inequalities = [e for result in results.values() for e in result["expectations"]]
    lines = [
        "# What was measured",
        "",
        "Made by `python benchmarks/evidence/run.py`; how to read it: [../README.md](../README.md).",
        "",
        f"{len(results)} experiments: {counts['held']} held, {counts['mixed']} mixed, {counts['not held']} not held"
        + (f"; without a result: {', '.join(without)}." if without else ".")
        + f" Of {len(inequalities)} inequalities {sum(e['verdict'] == 'held' for e in inequalities)} held.",
        "",
        "| experiment | claim | inequalities held | verdict |",
        "|---|---|---|---|",
    ]
    for name, result in results.items():
        held = sum(e["verdict"] == "held" for e in result["expectations"])
        lines.append(
            f"| [{name}](#{name}) | {result['claim']} "
            f"| {held} of {len(result['expectations'])} | {MARKS[result['verdict']]} |"
        )
    lines += ["", "## By method", "", "| method | experiments |", "|---|---|", *_by_method(results)]
    for result in results.values():
        lines += ["", *_section(result)]
    return lines


def _by_method(results: dict[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for name, result in results.items():
        for method in {method["class"] for method in result["methods"]}:
            found.setdefault(method, []).append(f"[{name}](#{name})")
    return [f"| {method} | {', '.join(found[method])} |" for method in sorted(found, key=str.lower)]


def _section(result: dict[str, Any]) -> list[str]:
    name = result["experiment"]
    seeds = f"{result['seeds']} seeds" if result["seeds"] > 1 else "exact, one world"
    lines = [
        f"## {name}",
        "",
        f"{result['claim']} ({result['paper']})",
        "",
        f"World: {result['world']} Budget: {result['budget']}; {seeds}; {result['seconds']} s.",
        "",
        f"![{result['claim']}]({name}.png)",
        "",
    ]
    if result["expectations"]:
        lines += [
            "| measure | expected | left | right | left - right | held in | verdict |",
            "|---|---|---|---|---|---|---|",
        ]
        for e in result["expectations"]:
            note = f" ({e['note']})" if e["note"] else ""
            spread = "" if e["half_width"] is None else f" ± {_number(e['half_width'])}"
            lines.append(
                f"| {e['measure'].replace('_', ' ')} | {e['text']}{note} | {_number(e['left'])} "
                f"| {_number(e['right'])} | {_number(e['difference'])}{spread} "
                f"| {e['held_in']} of {e['of']} | {MARKS[e['verdict']]} |"
            )
        lines.append("")
    if result["discussion"]:
        lines += [result["discussion"], ""]
    if result["spec"]:
        lines += ["Beside the numbers of our prototypes' runs (other draws, unless they agree):", ""]
        lines += ["| measure | method | prototype, by seed | here, by seed |", "|---|---|---|---|"]
        lines += [
            f"| {row['measure'].replace('_', ' ')} | {row['label']} "
            f"| {_numbers(row['spec'])} | {_numbers(row['here'])} |"
            for row in result["spec"]
        ]
        lines.append("")
    if result["waiting"]:
        lines += [f"Waiting for: {', '.join(result['waiting'])}.", ""]
    lines += ["<details><summary>all measures</summary>", "", *_measures(result), "", "</details>"]
    return lines


def _measures(result: dict[str, Any]) -> list[str]:
    measures = result["measures"]
    labels = list(dict.fromkeys(label for values in measures.values() for label in values))
    settings = {method["label"]: method for method in result["methods"]}
    lines = ["| method | settings | " + " | ".join(name.replace("_", " ") for name in measures) + " |"]
    lines.append("|---" * (len(measures) + 2) + "|")
    for label in labels:
        method = settings.get(label)
        how = "" if method is None else ", ".join(f"{key} {value}" for key, value in method["settings"].items())
        cells = [_with_interval(values[label]) if label in values else "" for values in measures.values()]
        lines.append(f"| {label} | {how} | " + " | ".join(cells) + " |")
    return lines


def _with_interval(values: list[float]) -> str:
    mean, half_width = interval(values)
    return _number(mean) if math.isnan(half_width) else f"{_number(mean)} ± {_number(half_width)}"


def _numbers(values: list[float]) -> str:
    return ", ".join(_number(value) for value in values)


def _number(value: float) -> str:
    """Three significant digits, and thousands in full."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
