"""The data path up to tokenising, as tests need it: read, recognise, normalise, convert, check."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lit_align.data.canonical import DEFAULT_RULES, CanonicalRow, Dropped, Format, Rules
from lit_align.data.checks import SetChecks
from lit_align.data.convert import find_conversion
from lit_align.data.readers import peek, read_rows
from lit_align.data.schema import normalise, recognise


class Loaded(NamedTuple):
    fmt: Format
    rows: list[CanonicalRow]
    dropped: list[Dropped]


def load(source: str | Path, *, convert=None, columns=None, rules: Rules = DEFAULT_RULES, **settings: Any) -> Loaded:
    rows = read_rows(source, streaming=True)
    fmt = recognise(*peek(rows), mapping=columns, file=str(source), **settings)
    conversion = None if convert is None else find_conversion(convert, fmt.kind)
    checks = SetChecks(fmt.kind if conversion is None else conversion.target, str(source), rules)
    loaded = Loaded(fmt, [], [])
    for row in rows:
        checked = checks.source(normalise(row, fmt, columns, str(source), rules=rules))
        whole = conversion is not None and isinstance(checked, CanonicalRow)
        for result in conversion.apply(checked) if whole else [checked]:
            checks.result(result)
            (loaded.dropped if isinstance(result, Dropped) else loaded.rows).append(result)
    checks.finish()
    return loaded


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}
