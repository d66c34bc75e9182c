"""What a run folder holds, read for the report: every file is optional, and a damaged one is said so, not fatal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

Row = dict[str, Any]
_T = TypeVar("_T")
MISSING = "not there"
"""What notes say of files that nobody wrote, which is no damage."""
_NAMES = ("metrics.jsonl", "evaluation.json", "completions.jsonl", "scores.jsonl", "data_report.json", "config.yaml",
          "run.json", "timing.jsonl", "alarms.jsonl", "hparams.json")  # fmt: skip


class RunFiles(NamedTuple):
    """The readable files of a run folder; empty where there is none."""

    folder: Path
    label: str
    """Short name that no other run of the page has."""
    metrics: list[Row]
    """Of metrics.jsonl, one per logging call."""
    timing: list[Row]
    """Of timing.jsonl: speed and memory at logged steps."""
    alarms: list[Row] | None
    """Of alarms.jsonl; None where there is no such file."""
    record: Row
    """Of run.json: method, policy, settings, sessions."""
    evaluation: Row
    """Of evaluation.json: headline, tables, figures and samples."""
    completions: list[Row]
    """Of completions.jsonl: step, prompt, completion."""
    scores: list[Row]
    """Of scores.jsonl, which `lit-align score` writes."""
    data_report: Row
    """Of data_report.json, by split."""
    config: Row
    """Of config.yaml, or of run.json where there is none; without the settings that are null."""
    notes: list[str]
    """Files that are missing or damaged."""

    @property
    def method(self) -> str:
        """Name of the method's class, as far as the configuration says so."""
        named = str(mapping(self.config.get("model")).get("class_path", "")).rpartition(".")[2]
        return named or str(self.record.get("method") or "")

    @property
    def policy(self) -> str:
        """The model that training started from."""
        given = mapping(mapping(self.config.get("model")).get("init_args")).get("policy")
        return str(given or self.record.get("policy") or "")

    @property
    def sessions(self) -> list[Row]:
        """Processes that trained, one after the other."""
        return rows_of(self.record.get("sessions"))


def read_run(folder: Path) -> RunFiles:
    """Read what there is of a run, or of an evaluation."""
    notes: list[str] = []

    def read(name: str, reader: Callable[[Path, list[str]], _T], default: _T, what: str = "") -> _T:
        path = folder / name
        if not path.is_file():
            if what:
                notes.append(f"{path}: {MISSING}, so no {what}")
            return default
        try:
            return reader(path, notes)
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            notes.append(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})")
            return default

    empty: Row = {}
    evaluation = read("evaluation.json", _read_object, empty)
    # A folder that holds an evaluation and nothing of a training run lacks nothing.
    trained = not evaluation or (folder / "metrics.jsonl").is_file() or (folder / "config.yaml").is_file()

    def expected(what: str) -> str:
        return what if trained else ""

    record = read("run.json", _read_object, empty, expected("times, versions and command of the run"))
    config = read("config.yaml", _read_config, empty, "" if record else expected("configuration"))
    return RunFiles(
        folder,
        label="",
        metrics=read("metrics.jsonl", read_lines, [], expected("training curves")),
        timing=read("timing.jsonl", read_lines, [], expected("speed and memory")),
        alarms=read("alarms.jsonl", read_lines, None),
        record=record,
        evaluation=evaluation,
        # Most runs have no scores.
        scores=read("scores.jsonl", read_lines, []),
        completions=read("completions.jsonl", read_lines, [], expected("completions during training")),
        data_report=read("data_report.json", _read_object, empty, expected("data report")),
        config=config or dict(without_nulls(mapping(record.get("settings")))),
        notes=notes,
    )


def read_runs(folders: Sequence[Path]) -> list[RunFiles]:
    """Read several, and give each a name that no other has."""
    runs = [read_run(folder) for folder in folders]
    paths = [run.folder.resolve() for run in runs]
    plain = [run.method or str(run.evaluation.get("title") or "") or path.name
             for run, path in zip(runs, paths, strict=True)]  # fmt: skip
    ways: list[Callable[[int], str]] = [
        lambda place: f"{plain[place]} ({paths[place].name})",
        lambda place: f"{plain[place]} ({'/'.join(paths[place].parts[-2:])})",
        lambda place: f"{plain[place]} ({paths[place].name}, {place + 1})",
    ]
    labels = plain
    for name in ways:
        # Only those that share a name with another get a longer one.
        alike = Counter(labels)
        labels = [name(place) if alike[label] > 1 else label for place, label in enumerate(labels)]
    return [run._replace(label=label) for run, label in zip(runs, labels, strict=True)]


def is_run(folder: Path) -> bool:
    """Whether a folder holds anything that a report could show."""
    return any((folder / name).is_file() for name in _NAMES)


def without_nulls(value: Any) -> Any:
    """The same settings without those that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def rows_of(value: Any) -> list[Row]:
    """The objects of a list, whatever else a file may hold there."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or nothing where a file holds something else."""
    return value if isinstance(value, dict) else {}


def words_of(value: Any) -> str:
    """A text; of a conversation what each said."""
    if isinstance(value, list):
        turns = [(mapping(turn).get("role"), mapping(turn).get("content", turn)) for turn in value]
        return "\n".join(f"{role}: {words}" if role else str(words) for role, words in turns)
    return "" if value is None else str(value)


def read_lines(path: Path, notes: list[str]) -> list[Row]:
    """Rows of a file of JSON lines; a line that was cut off by a kill is left out and counted."""
    rows: list[Row] = []
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
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
