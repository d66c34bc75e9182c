"""The data path up to tokenising, as tests need it: rows of every format, and reading, converting, checking them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lit_align.core.errors import AlignError, DataError
from lit_align.data.canonical import DEFAULT_RULES, CanonicalRow, Dropped, Format, Rules
from lit_align.data.checks import SetChecks
from lit_align.data.convert import find_conversion
from lit_align.data.places import Places
from lit_align.data.readers import peek, read_rows
from lit_align.data.schema import normalise, recognise


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


PAIR = {"prompt": "How are you?", "chosen": "Fine, thanks.", "rejected": "Go away."}
CHAT = {"prompt": [user("How are you?")], "chosen": [assistant("Fine.")], "rejected": [assistant("Go.")]}
WHOLE = {"chosen": [user("Hi"), assistant("Hello.")], "rejected": [user("Hi"), assistant("Go.")]}
LABELLED = {"prompt": "How are you?", "completion": "Fine.", "label": True}
RANKED = {"prompt": "How are you?", "responses": ["Fine.", "Go."], "scores": [0.9, 0.1]}
CONVERSATION = {"messages": [user("Hi"), assistant("Hello.")]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
ALPACA = {"instruction": "Add one.", "input": "2", "output": "3"}
ANYTHING = {"question": "How?", "response_1": "So.", "response_2": "Thus.", "overall_response": 1}
FEEDBACK = {
    "instruction": "How?",
    "completions": [{"response": "So.", "overall_score": 4.0}, {"response": "No.", "overall_score": 1.0}],
}
HH = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: Go."}


class Loaded(NamedTuple):
    fmt: Format
    rows: list[CanonicalRow]
    dropped: list[Dropped]


def load(source: str | Path, *, convert=None, columns=None, rules: Rules = DEFAULT_RULES, **settings: Any) -> Loaded:
    rows = read_rows(source, streaming=True)
    fmt = recognise(*peek(rows), mapping=columns, file=str(source), **settings)
    conversion = None if convert is None else find_conversion(convert, fmt.kind)
    places = Places(str(source))
    checks = SetChecks(fmt.kind if conversion is None else conversion.target, places, rules)
    loaded = Loaded(fmt, [], [])
    for row in rows:
        checked = normalise(row, fmt, columns, str(source), rules=rules)
        checked = checks.source(checked._replace(row=places.number(row)))
        whole = conversion is not None and isinstance(checked, CanonicalRow)
        for result in conversion.apply(checked) if whole else [checked]:
            checks.result(result)
            (loaded.dropped if isinstance(result, Dropped) else loaded.rows).append(result)
    checks.finish()
    return loaded


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(error: AlignError, path: Path, what: str, row: int | None, field: str, value: str) -> None:
    """The message says what, where, what was found, and what to do."""
    assert isinstance(error, DataError)
    text = str(error)
    assert what in error.what, text
    assert str(path) in text
    assert error.row == row, text
    assert error.field == field, text
    assert value in text
    assert re.search(r"\n  fix: \S{2}", text), text
