"""Rounds on disk: numbered folders whose files are whole or absent, and know what they were made of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_align.core.checkpoint_io import publish, remove_stale, temporary
from lit_align.core.errors import DataError

Row = dict[str, Any]

ROUNDS = "rounds"
"""Folder of the rounds in a run folder."""
TRAIN = "train"
"""The step whose rows are learnt from."""
START = "start.ckpt"
"""The checkpoint that a round begins with."""
STALE = "stale"
"""Folder of what was made of something else."""
_MANIFEST = "manifest.json"
_PARTS = "parts"


class RoundFolder:
    """One round: a JSON-lines file for each of its steps, and a manifest that says what each was made of.

    A step is done if the manifest names it with the digest of all that it depends on, and with the checksum of the
    file that is there. Files are written under another name and renamed, and then the manifest is: a process that is
    killed anywhere leaves either a step that is done, or one that is to be made again from the same things. What was
    made of something else, such as other weights or other settings, is moved to `stale`, and never deleted.

    Args:
        path: the folder; it is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, run: Path, number: int) -> RoundFolder:
        """The folder of a round of a run."""
        return cls(run / ROUNDS / f"round_{number}")

    @property
    def number(self) -> int:
        """Which round it is, from 1."""
        return int(self.path.name.rpartition("_")[2])

    def file(self, step: str) -> Path:
        """Where a step's rows are."""
        return self.path / f"{step}.jsonl"

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the round; nothing before its first step is done.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.path / _MANIFEST
        if not path.is_file():
            return {}
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(
                "a round's manifest is not JSON",
                file=str(path),
                value=str(error),
                fix="mend it, or move the round's folder away: the round is then made again",
            ) from error
        return manifest

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The steps that were done, in their order, with `rows`, `sha256`, `made_of` and what else they say."""
        steps: dict[str, dict[str, Any]] = self.manifest.get("steps", {})
        return steps

    # ---------------------------------------------------------------- steps

    def is_done(self, step: str, made_of: str) -> bool:
        """Whether a step was made of just this, and is as it was made.

        Raises:
            DataError: somebody has changed its file.
        """
        entry = self.steps.get(step)
        if entry is None or entry["made_of"] != made_of or not self.file(step).is_file():
            return False
        if sha256(self.file(step)) != entry["sha256"]:
            raise edited(self, step)
        return True

    def write(self, step: str, rows: Sequence[Mapping[str, Any]], made_of: str, facts: Mapping[str, Any]) -> None:
        """Put a step's rows in place, and then into the manifest.

        Args:
            step: name of the step.
            rows: JSON objects.
            made_of: digest of all that they depend on.
            facts: what else the manifest says of the step; JSON values.
        """
        write_rows(self.file(step), rows)
        entry = {**facts, "rows": len(rows), "sha256": sha256(self.file(step)), "made_of": made_of}
        self.note(steps=self.steps | {step: entry})

    def note(self, **values: Any) -> None:
        """Add to the manifest, or replace what it says under these names."""
        write_text(self.path / _MANIFEST, json.dumps(self.manifest | values, indent=1, ensure_ascii=False) + "\n")

    def rows(self, step: str) -> list[Row]:
        """A step's rows."""
        return read_rows(self.file(step))

    def verified(self, step: str) -> list[Row]:
        """A step's rows, as they were made or accepted.

        Raises:
            DataError: somebody has changed its file.
        """
        if not self.file(step).is_file() or sha256(self.file(step)) != self.steps[step]["sha256"]:
            raise edited(self, step)
        return self.rows(step)

    def left_out(self) -> dict[str, int]:
        """What all steps left out, by reason."""
        counts: Counter[str] = Counter()
        for entry in self.steps.values():
            counts.update(entry.get("left_out", {}))
        return dict(counts)

    def set_aside(self, steps: Iterable[str]) -> None:
        """Move steps to `stale`, with their entries in the manifest; a file there of the same name is kept too."""
        left = dict(self.steps)
        for step in steps:
            entry = left.pop(step, None)
            # The file first: an entry without its file is not done, and a file without its entry would be written over.
            if self.file(step).is_file():
                stale = self.path / STALE
                stale.mkdir(exist_ok=True)
                name = (entry or {}).get("made_of", "unlisted")[:12]
                os.replace(self.file(step), free_path(stale / f"{step}-{name}.jsonl"))
            self.note(steps=left)

    # ---------------------------------------------------------------- parts

    def part(self, step: str, made_of: str, number: int) -> Path:
        """Where a part of a step's rows is until all parts are there; the folder's name says what it is made of."""
        return self.path / _PARTS / f"{step}-{made_of[:16]}" / f"{number:05d}.jsonl"

    def forget_parts(self) -> None:
        """Remove parts: their steps are done, or will never be."""
        shutil.rmtree(self.path / _PARTS, ignore_errors=True)

    def clean(self) -> None:
        """Remove what killed writers have left."""
        for folder in (self.path, *(self.path / _PARTS).glob("*")):
            if folder.is_dir():
                remove_stale(folder)


def run_of(folder: RoundFolder) -> Path:
    """The run folder that a round belongs to."""
    return folder.path.parent.parent


def round_folders(run: Path) -> list[RoundFolder]:
    """The rounds of a run, in order."""
    paths = (run / ROUNDS).glob("round_*")
    return sorted((RoundFolder(path) for path in paths if path.name[6:].isdigit()), key=lambda folder: folder.number)


def edited(folder: RoundFolder, step: str) -> DataError:
    """What to say of a file that is not as it was made."""
    run, number = run_of(folder), folder.number
    return DataError(
        f"step '{step}' of round {number} was changed after it was made",
        file=str(folder.file(step)),
        value="another checksum than the manifest's",
        fix=f"`lit-align rounds {run} --accept {number}` goes on with the changed file; "
        f"`lit-align rounds {run} --redo {number} --step {step}` makes it again",
    )


def digest(*parts: Any) -> str:
    """A hash of JSON values; equal values have equal ones."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256(path: Path) -> str:
    """Checksum of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines; the file is whole or absent."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or absent, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    try:
        # Lone surrogates, which a byte-level tokenizer may leave, have no UTF-8.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        publish(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_rows(path: Path) -> list[Row]:
    """Read JSON lines that this module wrote, or that somebody has edited since.

    Raises:
        DataError: a line is not JSON.
    """
    rows = []
    # Not `splitlines`, which also breaks at characters that JSON leaves as they are.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                "a row of a round is not JSON", file=str(path), row=number, value=str(error), fix="mend the line"
            ) from error
    return rows


def free_path(path: Path) -> Path:
    """A path that nothing has yet."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
