"""The records of `lit-align judge`: one for each item, kept as they are made, and gone on with after a kill."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lit_align.core.errors import ConfigError
from lit_align.evaluation.compare_data import write_whole
from lit_align.evaluation.kept_files import Record, keep, with_fingerprints
from lit_align.judges.base import Judge, PointwiseJudge
from lit_align.judges.items import Item, Items

_CHUNK = 64
"""Items that are judged together: what a kill costs at most."""


def judge_all(judge: Judge, config: Mapping[str, Any], items: Items, out: Path, fresh: bool = False) -> list[Record]:
    """Judge everything, and write a line for each item as soon as it is known.

    What a killed call has written is kept, and so is what the judge had counted until then.

    Args:
        judge: asked for what is not there yet.
        config: its class and arguments; files and folders in it count with their content.
        items: what is to be judged.
        out: the file of records; beside it stand what they were made from, and the judge's memory.
        fresh: judge anew what is there already.

    Raises:
        ConfigError: there is nothing to judge, or the file holds what was made from something else.
    """
    if not items.items:
        reasons = ", ".join(f"{reason} ({number})" for reason, number in items.dropped.items())
        raise ConfigError("there is nothing to judge", got=reasons or "no rows", fix="see what --data holds")
    memory = _Memory(judge, out.with_name(f"{out.name}.memory.json"))
    if fresh:
        for end in ("", ".key.json", ".part", ".part.key.json", ".memory.json"):
            out.with_name(f"{out.name}{end}").unlink(missing_ok=True)
    total = len(items.items)
    key = {"judge": with_fingerprints(config), "items": _digest(items)}
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("judging", total=total)

        def make(places: Sequence[int]) -> list[Record]:
            memory.recall(places[0])
            found = _judge(judge, items, places[0], places[-1] + 1)
            # Before the records: after a kill there may be a memory without them, but none of them without it.
            memory.write(places[-1] + 1)
            bar.update(task, completed=places[-1] + 1)
            return found

        chunk = _CHUNK if judge.is_divisible() else total
        records = keep(out, key, total, make, chunk=chunk, keep_parts=True, anew="--fresh")
    memory.recall(total)
    return records


class _Memory:
    """What a judge has counted after the last two chunks, in a file."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge, self.path = judge, path
        self.after = 0
        """Items that the judge has counted."""
        self.kept: dict[str, Any] = {}

    def recall(self, after: int) -> None:
        """Let the judge know what it had counted after so many items, if that was in another process."""
        if after == self.after:
            return
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        if str(after) not in found:
            got = f"{self.path}: nothing after {after} items"
            raise ConfigError("what the judge had counted is lost", got=got, fix="judge anew with --fresh")
        self.judge.recall(found[str(after)])
        self.after, self.kept = after, {str(after): found[str(after)]}

    def write(self, after: int) -> None:
        """Keep what the judge has counted after so many items, and what it had before."""
        # A copy, since the judge goes on counting.
        now = {str(after): json.loads(json.dumps(self.judge.memory()))}
        write_whole(self.path, json.dumps(self.kept | now) + "\n")
        self.after, self.kept = after, now


def _digest(items: Items) -> str:
    """Changes with anything that a judge is shown."""
    found = hashlib.sha256()
    for item in items.items:
        found.update(json.dumps(item, sort_keys=True, default=str).encode())
    return found.hexdigest()


def _judge(judge: Judge, items: Items, start: int, stop: int) -> list[Record]:
    chosen, columns = items.items[start:stop], items.columns(start, stop)
    prompts = [item.prompt for item in chosen]
    texts = [list(side) for side in zip(*(item.texts for item in chosen), strict=True)]
    results: list[Any]
    if len(texts) == 2:
        results = judge.compare(prompts, *texts, **columns)
    else:
        assert isinstance(judge, PointwiseJudge)
        results = judge.score(prompts, *texts, **columns)
    return [_record(items, item, result) for item, result in zip(chosen, results, strict=True)]


def _record(items: Items, item: Item, result: Any) -> Record:
    """The line of an item, of a `Judged` or a `Verdict`."""
    file, row = items.places.find(item.row)
    names = ("completion",) if len(item.texts) == 1 else ("first", "second")
    texts = dict(zip(names, item.texts, strict=True))
    said = result._asdict()
    if said.get("orders", ...) is None:
        # Of judges that are not asked in two orders.
        del said["orders"]
    return {"file": file, "row": row, **item.about, "prompt": item.prompt, **texts, **said}
