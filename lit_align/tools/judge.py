"""`lit-align judge`: what a judge says of responses or pairs, to a file of JSON lines."""

from __future__ import annotations

import json
from argparse import ArgumentError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_align.tools.command import explained

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from lit_align.judges.base import Judge
    from lit_align.judges.items import Items

_ABOUT = """Score responses, or compare pairs of them, with a judge: a reward model, a language model, a check against
known answers, a function of yours, or several of these. --judge NAME with --judge.SETTING VALUE, or --judge FILE.yaml
with class_path and init_args; --judge.help NAME lists the settings of one. Killed at any time, the same command goes on
where it was."""
_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "data": (str, None, "file, folder or hub name with responses or pairs"),
    "out": (str, "judged.jsonl", "file to write; a summary is written beside it"),
    "pairs": (bool, False, "compare pairs also with a judge that gives scores"),
    "columns": (
        dict[str, str | None] | None,
        None,
        "names of columns, as {name here: name in the file}; all others are given to the judge as they are",
    ),
    "format": (str | None, None, "name of the data's format"),
    "convert": (str | None, None, "makes pairs of ranked responses, such as best_worst"),
    "limit": (int | None, None, "read so many rows at most"),
}
"""Type, default and help of each option besides the judge."""


def main(argv: list[str]) -> None:
    """Judge the responses or pairs of a source.

    Args:
        argv: arguments behind the tool's name.

    Raises:
        ConfigError: an argument will not do, or the data do not fit the judge.
        DataError: the data cannot be read.
    """
    # Here, since these import what `lit-align --help` does without.
    from lit_align.judges.items import read_items
    from lit_align.judges.loading import KEY, build, judge_parser, plain_errors
    from lit_align.tools.judge_records import judge_all

    parser = judge_parser(prog="lit-align judge", description=_ABOUT)
    _add_arguments(parser)
    config = _parse(parser, argv)
    with plain_errors():
        judge = build(parser, config)
    _silence()
    items = read_items(
        config.data,
        pairs=_compares(judge, config),
        columns=config.columns,
        format=config.format,
        convert=config.convert,
        limit=config.limit,
    )
    out = Path(config.out)
    try:
        records = judge_all(judge, yaml.safe_load(parser.dump(config, skip_none=False))[KEY], items, out, config.fresh)
    finally:
        judge.release()
    summary = summarise(judge, items, records)
    beside = out.with_suffix(".summary.json")
    beside.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(records)} records: {out}\n{as_line(summary)}")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    for name, (kind, default, about) in _OPTIONS.items():
        # The one without which there is nothing to do.
        given = {"required": True} if name == "data" else {"default": default}
        parser.add_argument(f"--{name}", type=kind, help=about, **given)
    about = "judge anew what is there already; otherwise a killed command goes on, and other settings are refused"
    parser.add_argument("--fresh", action="store_true", help=about)


def _parse(parser: ArgumentParser, argv: list[str]) -> Namespace:
    from lit_align.judges.loading import KEY
    from lit_align.judges.loading import explained as judge_explained

    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        message = str(error)
        if f'Parser key "{KEY}' in message:
            raise judge_explained(message) from error
        raise explained("judge", message, {KEY, *_OPTIONS, "fresh"}) from error


def _compares(judge: Judge, config: Namespace) -> bool:
    from lit_align.judges.base import PointwiseJudge

    return bool(config.pairs or config.convert) or not isinstance(judge, PointwiseJudge)


def _silence() -> None:
    from transformers.utils.logging import disable_progress_bar

    # Those of models that are read would stand between our lines.
    disable_progress_bar()


def summarise(judge: Judge, items: Items, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is to know of a judge's results, for JSON.

    Args:
        judge: after it has judged.
        items: that it was given.
        records: of the items.
    """
    compared = "probability" in records[0]
    value = "probability" if compared else "score"
    known = [record for record in records if record[value] is not None]
    summary: dict[str, Any] = {
        "judge": type(judge).__name__,
        "data": {"rows": items.rows, "dropped": dict(items.dropped), "format": items.format.describe()},
        "items": len(records),
        "judged": len(known),
        "unjudged": _unjudged(records, value),
        "mean": sum(record[value] for record in known) / len(known) if known else None,
        **_by_side(known),
        **(_agreement([(r["probability"], 0.5) for r in known]) if compared else _agreement(_sides(known))),
        "events": {name: number for name, number in _events(judge).items() if number},
        **judge.facts(),
    }
    return summary


def _unjudged(records: list[dict[str, Any]], value: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        if record[value] is None:
            reason = record["reason"].partition(": ")[0]
            counts[reason] = counts.get(reason, 0) + 1
    return counts


def _by_side(known: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean scores of chosen and rejected, or desirable and undesirable responses."""
    groups: dict[str, list[float]] = {}
    for record in known:
        side = record.get("role")
        if "label" in record:
            side = "desirable" if record["label"] else "undesirable"
        if side is not None and "score" in record:
            groups.setdefault(side, []).append(record["score"])
    return {"means": {side: sum(scores) / len(scores) for side, scores in sorted(groups.items())}} if groups else {}


def _sides(known: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Scores of the chosen and the rejected response of each pair."""
    pairs: dict[tuple[str, int], dict[str, float]] = {}
    for record in known:
        if record.get("role"):
            pairs.setdefault((record["file"], record["row"]), {})[record["role"]] = record["score"]
    return [(pair["chosen"], pair["rejected"]) for pair in pairs.values() if len(pair) == 2]


def _agreement(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """How often the judge prefers what the data prefer; a tie is not a preference."""
    if not pairs:
        return {}
    ties = sum(better == worse for better, worse in pairs)
    return {
        "pairs": len(pairs),
        "accuracy": sum(better > worse for better, worse in pairs) / len(pairs),
        "ties": ties / len(pairs),
    }


def _events(judge: Judge) -> dict[str, int]:
    """What happened to items, in this judge and those that it asks."""
    events = dict(judge.counts.events)
    for part in judge.parts():
        for name, number in _events(part).items():
            events[name] = events.get(name, 0) + number
    return events


def as_line(summary: dict[str, Any]) -> str:
    """The summary for people, one line."""
    parts = [f"{summary['judged']} of {summary['items']} judged"]
    parts += [f"{reason}: {number}" for reason, number in summary["unjudged"].items()]
    if summary["mean"] is not None:
        parts.append(f"mean {summary['mean']:.4g}")
    parts += [f"{side} {mean:.4g}" for side, mean in summary.get("means", {}).items()]
    if "pairs" in summary:
        accuracy, ties = (f"{100 * summary[name]:.1f} %" for name in ("accuracy", "ties"))
        parts.append(f"accuracy {accuracy} of {summary['pairs']} pairs, ties {ties}")
    bias = summary.get("position_bias", {}).get("same_place")
    if bias is not None:
        parts.append(f"the same place won in both orders: {100 * bias:.1f} %")
    parts += [f"{name}: {number}" for name, number in summary["events"].items()]
    parts += [f"row not judged, {reason}: {number}" for reason, number in summary["data"]["dropped"].items()]
    return "; ".join(parts)
