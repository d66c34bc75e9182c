"""Score files: one JSON line per response, with who wrote it, who scored it, and the score.

Besides our own lines, whose fields are those of `Scored`, this reads what `lit-align score` and `lit-align judge`
write, and the JSON lists `[{"prompt", "response", "score"}]` of align-anything.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_align.core.errors import DataError
from lit_align.data.files import iterate_file

SOURCES = ("chosen", "rejected", "generated")
_MARK = r"(?:<\|[^<>|\s]{1,40}\|>|</?s>|<(?:pad|unk|eos|bos|start_of_turn|end_of_turn)>|\[(?:PAD|EOS|BOS)\])"
_CLOSING = re.compile(rf"(?:\s*{_MARK})+\s*\Z")
_OWN = ("id", "source", "model", "rm", "prompt", "response", "score", "len_tokens", "len_chars", "meta")
_SCORED = ("row", "response", "completion")
"""Fields by which a record of `lit-align score` or `lit-align judge` is known."""


class Scored(NamedTuple):
    """A response and its score."""

    id: str
    """The same for all responses to one prompt of the data."""
    source: str
    """chosen, rejected, or generated."""
    model: str
    """Who wrote the response; empty where that is not known."""
    rm: str
    """Who scored it."""
    prompt: Any
    """A text, or messages."""
    response: str
    score: float | None
    """None where the judge could not say; `meta` then has the reason."""
    len_tokens: int | None
    len_chars: int
    meta: dict[str, Any]


class Pair(NamedTuple):
    """Two responses of which one is preferred."""

    chosen: Scored
    rejected: Scored


class Pairs(NamedTuple):
    """The pairs of a score file, and what became of the other responses."""

    pairs: list[Pair]
    left_out: Counter[str]
    """Reasons, and how many responses."""


def read_scores(path: str | Path, rm: str | None = None) -> list[Scored]:
    """Read a score file of any kind.

    Args:
        path: `.jsonl` or `.json`, also with `.gz`.
        rm: who scored, where the file does not say; None: the file's name stands for it.

    Raises:
        DataError: a line is no record of a score; the message names file and line.
    """
    path = Path(path)
    rm = path.name.split(".")[0] if rm is None else rm
    return [_read(row, path, number, rm) for number, row in iterate_file(path)]


def _read(row: Mapping[str, Any], path: Path, number: int, rm: str) -> Scored:
    if all(name in row for name in _SCORED):
        return _of_score(row, path, number, rm)
    if "id" not in row and "source" not in row:
        # align-anything's lists say no more than this; the same prompt has the same id.
        row = {"source": "generated", "id": json.dumps(row.get("prompt"), sort_keys=True), **row}
    response = _text(row, "response", path, number)
    source = _text(row, "source", path, number)
    if source not in SOURCES:
        raise _error("a response comes from nowhere that is known", row, "source", path, number, " or ".join(SOURCES))
    return Scored(
        str(_required(row, "id", path, number)),
        source,
        str(row.get("model") or ""),
        str(row.get("rm") or rm),
        _prompt(row, path, number),
        response,
        _score(row, "score", path, number),
        _count(row, "len_tokens", path, number),
        _count(row, "len_chars", path, number) or len(response),
        _meta(row, path, number),
    )


def _of_score(row: Mapping[str, Any], path: Path, number: int, rm: str) -> Scored:
    """A record of `lit-align score` or `lit-align judge`.

    The texts of the former are as the model sees them; the marks at the end are no words.
    """
    name = "reward" if "reward" in row else "score"
    if name not in row:
        fix = "score with a reward model, or with a method that has an implicit reward, such as DPO"
        raise DataError("a record has no reward", file=str(path), row=number, value=sorted(row), fix=fix)
    response = _CLOSING.sub("", _text(row, "completion", path, number))
    known = ("file", "row", "response", "given_score", "label", "truncated", "reason")
    meta = {name: row[name] for name in known if name in row}
    score = _score(row, name, path, number)
    # A judge may say that it cannot tell; a model has always a number.
    if score is None and name == "reward":
        raise _error("a response has no reward", row, "reward", path, number, "score it again")
    return Scored(
        f"{row.get('file', '')}:{row['row']}",
        row.get("role", "generated"),
        "",
        rm,
        _prompt(row, path, number),
        response,
        score,
        _count(row, "tokens", path, number),
        len(response),
        meta,
    )


def _required(row: Mapping[str, Any], name: str, path: Path, number: int) -> Any:
    if row.get(name) is None:
        fix = f"a line has {', '.join(_OWN)}; `lit-align score` writes such files"
        raise DataError("a score has no " + name, file=str(path), row=number, field=name, value=sorted(row), fix=fix)
    return row[name]


def _text(row: Mapping[str, Any], name: str, path: Path, number: int) -> str:
    value = _required(row, name, path, number)
    if not isinstance(value, str):
        raise _error("a text was expected", row, name, path, number, "write a string")
    return value


def _prompt(row: Mapping[str, Any], path: Path, number: int) -> Any:
    value = _required(row, "prompt", path, number)
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, dict) for part in value)):
        return value
    raise _error("a prompt is a text or a list of messages", row, "prompt", path, number, "write one of the two")


def _score(row: Mapping[str, Any], name: str, path: Path, number: int) -> float | None:
    if name not in row:
        _required(row, name, path, number)
    value = row[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _error("a score is a finite number", row, name, path, number, "score it again, or remove the line")
    return float(value)


def _count(row: Mapping[str, Any], name: str, path: Path, number: int) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _error("a length is a whole number", row, name, path, number, "count it again, or leave it out")
    return value


def _meta(row: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    value = row.get("meta") or {}
    if not isinstance(value, dict):
        raise _error("meta is an object", row, "meta", path, number, 'write one, such as {"source": "helpful"}')
    return value


def _error(what: str, row: Mapping[str, Any], name: str, path: Path, number: int, fix: str) -> DataError:
    # Null would look like a field that is not there.
    value = "null" if row.get(name) is None else row[name]
    return DataError(what, file=str(path), row=number, field=name, value=value, fix=fix)


def write_scores(path: Path, records: Iterable[Scored]) -> None:
    """Write a score file; it is never seen half written."""
    _write(path, "".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records))


def write_align_anything(path: Path, records: Iterable[Scored]) -> None:
    """Write the JSON list of prompts, responses and scores that align-anything's tools read."""
    names = ("prompt", "response", "score")
    rows = [{name: getattr(record, name) for name in names} for record in records]
    _write(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def pair_up(records: Sequence[Scored]) -> Pairs:
    """The pairs of a score file: of each id every chosen with every rejected response.

    Where the data give scores instead (ranked data), every two responses that were given different ones make a pair.
    """
    groups: dict[str, list[Scored]] = {}
    left_out: Counter[str] = Counter()
    for record in records:
        if record.score is None:
            left_out["no score"] += 1
        else:
            groups.setdefault(record.id, []).append(record)
    pairs: list[Pair] = []
    for group in groups.values():
        found = _pairs(group)
        pairs += found
        used = {id(record) for pair in found for record in pair}
        left_out["no other response to compare with"] += sum(id(record) not in used for record in group)
    return Pairs(pairs, +left_out)


def _pairs(group: Sequence[Scored]) -> list[Pair]:
    chosen, rejected = ([record for record in group if record.source == side] for side in SOURCES[:2])
    if chosen or rejected:
        return [Pair(better, worse) for better in chosen for worse in rejected]
    given = [(record.meta.get("given_score"), record) for record in group]
    rated = [(score, record) for score, record in given if isinstance(score, (int, float))]
    return [Pair(better, worse) for high, better in rated for low, worse in rated if high > low and better is not worse]


def with_columns(records: Sequence[Scored], names: Sequence[str]) -> list[Scored]:
    """Add columns of the data to `meta`, and who wrote a response, for records that name their file and row.

    Columns that the data do not have, and data that are no longer where they were, are passed over.

    Args:
        records: of a score file.
        names: of the columns.
    """
    wanted: dict[str, set[int]] = {}
    for record in records:
        file, row = record.meta.get("file"), record.meta.get("row")
        if file and isinstance(row, int):
            wanted.setdefault(file, set()).add(row)
    rows: dict[tuple[str, int], Mapping[str, Any]] = {}
    for file, numbers in wanted.items():
        if Path(file).is_file():
            rows |= {(file, number): row for number, row in iterate_file(Path(file)) if number in numbers}
    return [
        _joined(record, rows.get((record.meta.get("file", ""), record.meta.get("row", 0)), {}), names)
        for record in records
    ]


def _joined(record: Scored, row: Mapping[str, Any], names: Sequence[str]) -> Scored:
    """A record with columns of its row; ranked data may also say who wrote it."""
    meta = {name: value for name, value in row.items() if name in names} | record.meta
    models, place = row.get("models"), record.meta.get("response")
    # Empty responses are not counted, so where there is one, numbers are no places.
    if isinstance(models, list) and isinstance(place, int) and place < len(models) and all(row.get("responses", [""])):
        record = record._replace(model=str(models[place]))
    return record._replace(meta=meta)


def prompt_text(prompt: Any) -> str:
    """A prompt for people: messages become lines with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in prompt)
