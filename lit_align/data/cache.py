"""Tokenised data on disk, found by what they were made of and trusted only after a check.

An entry is a folder `<key>/` with `examples.arrow` and `meta.json`. It is written under another name and renamed,
so it is whole or absent; a reader checks the key, the number of rows and the checksum, and a wrong entry is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_align.data.report import DataReport
from lit_align.data.store import ExampleStore, Record, read_store, write_records

_EXAMPLES, _META = "examples.arrow", "meta.json"


def default_folder() -> Path:
    """Where caches are kept if nothing else is said: `$LIT_ALIGN_CACHE`, or below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LIT_ALIGN_CACHE") or Path(base) / "lit_align") / "data"


def cache_key(settings: dict[str, Any]) -> str:
    """Names an entry by everything that it depends on; `settings` holds JSON values."""
    text = json.dumps({**settings, "code": code_version()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def source_fingerprint(path: Path) -> str:
    """A hash of a file's bytes, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        stat = file.stat()
        digest.update(bytes.fromhex(_hash_unchanged(file, stat.st_size, stat.st_mtime_ns)))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides how the tokenizer encodes a text; the chat template is not part of it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # These change with the last call, not with the tokenizer.
    state.pop("truncation", None)
    state.pop("padding", None)
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps([state, names], sort_keys=True).encode()).hexdigest()


@cache
def code_version() -> str:
    """A hash of the source that makes and measures examples: other code may make other ones."""
    digest = hashlib.sha256()
    core = Path(__file__).parent.parent / "core"
    for file in [*sorted(Path(__file__).parent.glob("*.py")), *(core / name for name in _CORE)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


_CORE = ("batch.py", "demand.py", "layout.py")
"""What of the core shapes examples."""


class ExampleCache:
    """Entries in a folder.

    Args:
        folder: made when an entry is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str) -> tuple[ExampleStore, DataReport] | None:
        """The entry, or None where there is none that can be trusted."""
        entry = self.folder / key
        try:
            meta = json.loads((entry / _META).read_text(encoding="utf-8"))
            if meta["key"] != key or meta["checksum"] != _hash_file(entry / _EXAMPLES):
                return None
            store = read_store(entry / _EXAMPLES)
            report = DataReport.from_state(meta["report"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return (store, report) if len(store) == meta["rows"] else None

    def save(self, key: str, records: Iterable[Record], report: DataReport) -> ExampleStore:
        """Writes an entry in place of what stands there; `report` is complete once `records` are read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{key}.{uuid.uuid4().hex}"
        draft.mkdir()
        try:
            rows = write_records(draft / _EXAMPLES, records)
            meta = {
                "key": key,
                "rows": rows,
                "checksum": _hash_file(draft / _EXAMPLES),
                "report": report.to_state(),
            }
            (draft / _META).write_text(json.dumps(meta), encoding="utf-8")
            return self._publish(draft, key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _publish(self, draft: Path, key: str) -> ExampleStore:
        entry = self.folder / key
        if self.load(key) is None and entry.exists():
            # Moved away in one step, so that no other process finds half of it.
            broken = self.folder / f".{key}.{uuid.uuid4().hex}"
            entry.rename(broken)
            shutil.rmtree(broken, ignore_errors=True)
        try:
            draft.rename(entry)
        except OSError:
            # Another process was faster; its entry is as good, if it is one.
            if self.load(key) is None:
                raise
        return read_store(entry / _EXAMPLES)


@cache
def _hash_unchanged(path: Path, size: int, changed: int) -> str:
    """`_hash_file`, once per process for a file of a size and time."""
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
