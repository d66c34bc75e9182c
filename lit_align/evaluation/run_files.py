"""What a run folder holds, read for the report: every file is optional, and a damaged one is said so, not fatal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

Row = dict[str, Any]
_T = TypeVar("_T")


class RunFiles(NamedTuple):
    """The readable files of a run folder; empty where there is none."""

    folder: Path
    metrics: list[Row]
    """Of metrics.jsonl, one per logging call."""
    evaluation: Row
    """Of evaluation.json: headline, histograms and completions of a comparison."""
    completions: list[Row]
    """Of completions.jsonl: step, prompt, completion."""
    scores: list[Row]
    """Of scores.jsonl, which `lit-align score` writes."""
    data_report: Row
    """Of data_report.json, by split."""
    config: Row
    """Of config.yaml, without the settings that are null."""
    notes: list[str]
    """Files that are missing or damaged."""

    @property
    def method(self) -> str:
        """Name of the method's class, as far as the configuration says so."""
        return str(_mapping(self.config.get("model")).get("class_path", "")).rpartition(".")[2]

    @property
    def policy(self) -> str:
        """The model that training started from."""
        return str(_mapping(_mapping(self.config.get("model")).get("init_args")).get("policy", ""))


def read_run(folder: Path) -> RunFiles:
    """Read what there is of a run."""
    notes: list[str] = []

    def read(name: str, reader: Callable[[Path, list[str]], _T], default: _T, what: str) -> _T:
        path = folder / name
        if not path.is_file():
            if what:
                notes.append(f"{path}: not there, so no {what}")
            return default
        try:
            return reader(path, notes)
        except (OSError, ValueError, yaml.YAMLError) as error:
            notes.append(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})")
            return default

    return RunFiles(
        folder,
        metrics=read("metrics.jsonl", _read_lines, [], "training curves"),
        # Most runs have neither of the two.
        evaluation=read("evaluation.json", _read_object, {}, ""),
        scores=read("scores.jsonl", _read_lines, [], ""),
        completions=read("completions.jsonl", _read_lines, [], "completions during training"),
        data_report=read("data_report.json", _read_object, {}, "data report"),
        config=read("config.yaml", _read_config, {}, "configuration"),
        notes=notes,
    )


def is_run(folder: Path) -> bool:
    """Whether a folder holds anything that a report could show."""
    names = ("metrics.jsonl", "evaluation.json", "completions.jsonl", "scores.jsonl", "data_report.json", "config.yaml")
    return any((folder / name).is_file() for name in names)


def without_nulls(value: Any) -> Any:
    """The same settings without those that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _read_lines(path: Path, notes: list[str]) -> list[Row]:
    """Rows of a file of JSON lines; a line that was cut off by a kill is left out and counted."""
    rows: list[Row] = []
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    if damaged:
        notes.append(f"{path}: {damaged} unreadable line{'s' if damaged > 1 else ''} left out")
    return rows


def _read_object(path: Path, notes: list[str]) -> Row:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def _read_config(path: Path, notes: list[str]) -> Row:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"not a mapping but {type(value).__name__}")
    return dict(without_nulls(value))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
