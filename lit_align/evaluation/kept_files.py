"""Files that take long to make: made once, line by line, and gone on with where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.evaluation.compare_data import policy_fingerprint, write_whole
from lit_align.evaluation.jsonl_file import JsonlFile

_BLOCK = 1 << 20

Record = dict[str, Any]
Make = Callable[[Sequence[int]], list[Record]]
"""Records of some places, in their order."""


def keep(
    path: Path,
    key: Mapping[str, Any],
    count: int,
    make: Make,
    *,
    chunk: int,
    overwrite: bool = False,
    keep_parts: bool = False,
    anew: str = "--overwrite",
) -> list[Record]:
    """The records of a file of JSON lines; those that are not there yet are made.

    What a finished file was made from stands beside it, in `<name>.key.json`, with a digest of its content. Until it is
    finished the file is called `.part`, and holds whole chunks.

    Args:
        path: the file.
        key: everything that its content follows from, for JSON.
        count: how many records it has.
        make: makes those of one chunk.
        chunk: records that are made together. They are made in the same company after a kill, so that rounding, which
            depends on it, is the same as well.
        overwrite: make a file anew that was made from something else.
        keep_parts: refuse as well what a killed run has made from something else, instead of beginning anew.
        anew: the option that makes files anew, for the error.

    Raises:
        ConfigError: the file was made from something else, or was changed since.
    """
    settled = path.with_name(f"{path.name}.key.json")
    # Without its key a file is what a killed run left just before the end.
    if path.is_file() and settled.is_file():
        difference = _difference(path, settled, key)
        if not difference:
            return JsonlFile(path).read()
        if not overwrite:
            raise _held(path, difference, anew)
    part, part_key = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.key.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = JsonlFile(part)
    wanted = json.dumps(key, sort_keys=True)
    mine = part_key.is_file() and part_key.read_text(encoding="utf-8") == wanted
    if keep_parts and not mine and not overwrite and part_key.is_file() and file.read():
        raise _held(part, f"other {_names(json.loads(part_key.read_text(encoding='utf-8')), key)}", anew)
    records = file.read() if mine else []
    records = records[: len(records) // chunk * chunk]
    write_whole(part, "".join(_line(record) for record in records))
    write_whole(part_key, wanted)
    if records:
        print(f"{path}: going on after {len(records)} of {count}", flush=True)
    for start in range(len(records), count, chunk):
        made = make(range(start, min(start + chunk, count)))
        for record in made:
            file.append(record)
        records += made
    settled.unlink(missing_ok=True)
    os.replace(part, path)
    write_whole(settled, json.dumps({"key": key, "sha256": digest(path)}, indent=1, sort_keys=True))
    part_key.unlink()
    return JsonlFile(path).read()


def _difference(path: Path, settled: Path, key: Mapping[str, Any]) -> str:
    """What a finished file was made from that is not in the key; empty where it is as it should be."""
    before = json.loads(settled.read_text(encoding="utf-8"))
    names = _names(before["key"], key)
    if names:
        return f"other {names}"
    return "" if before["sha256"] == digest(path) else "changed since it was made"


def _names(old: Mapping[str, Any], key: Mapping[str, Any]) -> str:
    """In what two keys differ."""
    new = _plain(key)
    return ", ".join(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))


def _held(path: Path, difference: str, anew: str) -> ConfigError:
    fix = f"choose another --out, or make them anew with {anew}"
    return ConfigError("the folder holds results of something else", got=f"{path}: {difference}", fix=fix)


def _plain(key: Mapping[str, Any]) -> Any:
    """The key as it comes back from a file."""
    return json.loads(json.dumps(key))


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def with_fingerprints(settings: Any) -> Any:
    """Settings in which paths of folders and files are followed by what changes with their content."""
    if isinstance(settings, Mapping):
        return {str(name): with_fingerprints(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [with_fingerprints(value) for value in settings]
    if not isinstance(settings, str) or not settings:
        return settings
    # A function of the user's own is named as rules.py:score.
    for name in (settings, settings.rpartition(":")[0]):
        # Unlike Path.is_file, these take a text of any length, such as a template.
        path = os.path.expanduser(name)
        if os.path.isfile(path):
            return [settings, digest(Path(path))]
    return [settings, policy_fingerprint(settings)] if os.path.isdir(os.path.expanduser(settings)) else settings
