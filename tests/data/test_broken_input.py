"""Broken input never trains: each kind ends in an error that names the place and a fix, or in a counted drop."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_align.core.errors import AlignError, ConfigError, DataError
from lit_align.data.canonical import Rules
from lit_align.data.readers import read_rows
from tests.data.reading import assistant, load, system, user, write_jsonl

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


class Bad(NamedTuple):
    """A third row that is broken after two sound ones, and what the error must say about it."""

    good: dict[str, Any]
    change: dict[str, Any]
    what: str
    field: str
    value: str
    without: tuple[str, ...] = ()


NAN, INF = float("nan"), float("inf")
ROWS = {
    "chosen is a number": Bad(PAIR, {"chosen": 7}, "expected a text, found a number", "chosen", "7"),
    "chosen is true": Bad(PAIR, {"chosen": True}, "found true/false", "chosen", "True"),
    "rejected is an object": Bad(PAIR, {"rejected": {"text": "no"}}, "found an object", "rejected", "'text'"),
    "messages in a file of texts": Bad(PAIR, CHAT, "expected a text, found a list", "chosen", "Fine."),
    "texts in a file of messages": Bad(CHAT, PAIR, "expected a list, found a text", "chosen", "Fine, thanks."),
    "a prompt in text in a file of messages": Bad(
        {"prompt": [user("Hi")]}, {"prompt": "Hi"}, "expected a list", "prompt", "Hi"
    ),
    "null": Bad(PAIR, {"rejected": None}, "null", "rejected", "null"),
    "a missing key": Bad(PAIR, {}, "lacks a field", "rejected", "prompt, chosen", ("rejected",)),
    "another format": Bad(PAIR, LABELLED, "lacks a field", "chosen", "completion", ("chosen", "rejected")),
    "an empty completion": Bad(PAIR, {"chosen": ""}, "a text is empty", "chosen", "''"),
    "white space only": Bad(PAIR, {"rejected": " \n\t"}, "a text is empty", "rejected", r"' \n\t'"),
    "an empty prompt": Bad(PAIR, {"prompt": ""}, "a text is empty", "prompt", "''"),
    "half of a surrogate pair": Bad(PAIR, {"chosen": "so \ud83d"}, "surrogate", "chosen", r"\ud83d"),
    "no prompt that is shared": Bad(
        {"chosen": "Q?\nYes.", "rejected": "Q?\nNo."}, {"chosen": "Yes.", "rejected": "No."}, "share", "prompt", "null"
    ),
    "an unknown role": Bad(
        CONVERSATION, {"messages": [user("Hi"), {"role": "asistant", "content": "x"}]}, "unknown role",
        "messages[1].role", "asistant",
    ),
    "a ShareGPT role under role": Bad(
        CONVERSATION, {"messages": [{"role": "human", "content": "x"}]}, "unknown role", "messages[0].role", "human"
    ),
    "a role that is a number": Bad(
        CONVERSATION, {"messages": [{"role": 1, "content": "x"}]}, "unknown role", "messages[0].role", "1"
    ),
    "a message without a role": Bad(
        CONVERSATION, {"messages": [{"content": "Hi"}]}, "has no role", "messages[0].role", "Hi"
    ),
    "a message without content": Bad(
        CONVERSATION, {"messages": [user("Hi"), {"role": "assistant"}]}, "no content", "messages[1].content", "role"
    ),
    "a message with null content": Bad(
        CONVERSATION, {"messages": [{"role": "user", "content": None}]}, "no content", "messages[0].content", "None"
    ),
    "a message with empty content": Bad(
        CONVERSATION, {"messages": [user("Hi"), assistant("")]}, "text is empty", "messages[1].content", "''"
    ),
    "content that is a number": Bad(
        CONVERSATION, {"messages": [{"role": "user", "content": 5}]}, "found a number", "messages[0].content", "5"
    ),
    "a message that is a text": Bad(
        CONVERSATION, {"messages": ["Hi", "Hello"]}, "not an object", "messages[0]", "Hi"
    ),
    "an image": Bad(
        CONVERSATION, {"messages": [{"role": "user", "content": [{"type": "image", "url": "x.png"}]}]},
        "other than text", "messages[0].content[0]", "x.png",
    ),
    "no messages": Bad(CONVERSATION, {"messages": []}, "list is empty", "messages", "[]"),
    "messages that are an object": Bad(CONVERSATION, {"messages": user("Hi")}, "expected a list", "messages", "Hi"),
    "two users in a row": Bad(
        CONVERSATION, {"messages": [user("a"), user("b"), assistant("c")]}, "'user' follows 'user'", "messages[1]", "b"
    ),
    "two assistants in a row": Bad(
        CONVERSATION, {"messages": [user("a"), assistant("b"), assistant("c")]}, "follows 'assistant'",
        "messages[2]", "c",
    ),
    "the assistant speaks first": Bad(
        CONVERSATION, {"messages": [assistant("Hi"), user("a"), assistant("b")]}, "opens", "messages[0]", "Hi"
    ),
    "a system message in the middle": Bad(
        CONVERSATION, {"messages": [user("a"), system("b"), assistant("c")]}, "'system' follows", "messages[1]", "b"
    ),
    "a tool that nobody called": Bad(
        CONVERSATION, {"messages": [user("a"), {"role": "tool", "content": "b"}]}, "'tool' follows", "messages[1]", "b"
    ),
    "the last turn is the user's": Bad(
        CONVERSATION, {"messages": [user("a"), assistant("b"), user("c")]}, "not end with a turn of the assistant",
        "messages", "c",
    ),
    "a prompt that ends with the assistant": Bad(
        CHAT, {"prompt": [user("a"), assistant("b")]}, "does not end with a turn of the user", "prompt", "b"
    ),
    "a completion that begins with the user": Bad(
        {"prompt": [user("a")], "completion": [assistant("b")]}, {"completion": [user("c"), assistant("d")]},
        "not begin with a turn of the assistant", "completion[0]", "c",
    ),
    "a pair of which one answers nothing": Bad(
        WHOLE, {"rejected": [user("Hi")]}, "not end with a turn of the assistant", "rejected", "Hi"
    ),
    "a pair of different questions": Bad(
        WHOLE, {"rejected": [user("Bye"), assistant("Go.")]}, "share", "chosen", "Hi"
    ),
    "a prompt that contradicts the shared turns": Bad(
        {"prompt": "Hi", **WHOLE}, {"prompt": "Something else"}, "differs", "prompt", "Something else"
    ),
    "scores of another length": Bad(RANKED, {"scores": [1.0]}, "2 responses have 1 scores", "scores", "1.0"),
    "a score that is NaN": Bad(RANKED, {"scores": [0.1, NAN]}, "not finite", "scores[1]", "nan"),
    "a score that is infinite": Bad(RANKED, {"scores": [INF, 0.0]}, "not finite", "scores[0]", "inf"),
    "a score that is a word": Bad(RANKED, {"scores": ["good", 0.0]}, "expected a number", "scores[0]", "good"),
    "a score that is true": Bad(RANKED, {"scores": [True, 0.0]}, "expected a number", "scores[0]", "True"),
    "a score that is null": Bad(RANKED, {"scores": [0.3, None]}, "expected a number, found null", "scores[1]", "null"),
    "scores that are no list": Bad(RANKED, {"scores": 3}, "expected a list, found a number", "scores", "3"),
    "no responses": Bad(RANKED, {"responses": [], "scores": []}, "list is empty", "responses", "[]"),
    "responses that are no list": Bad(RANKED, {"responses": "Fine."}, "expected a list", "responses", "Fine."),
    "a response that is a number": Bad(RANKED, {"responses": ["a", 2]}, "expected a text", "responses[1]", "2"),
    "a margin that is NaN": Bad({**PAIR, "margin": 1.0}, {"margin": NAN}, "not finite", "margin", "nan"),
    "a margin that is a word": Bad({**PAIR, "margin": 1.0}, {"margin": "much"}, "expected a number", "margin", "much"),
    "the rejected one has the higher score": Bad(
        {**WHOLE, "score_chosen": 5, "score_rejected": 1}, {"score_chosen": 0}, "lower score", "score_chosen", "0"
    ),
    "a label that is a word": Bad(LABELLED, {"label": "good"}, "neither true nor false", "label", "good"),
    "a label that is 2": Bad(LABELLED, {"label": 2}, "neither true nor false", "label", "2"),
    "a label that is -1": Bad(LABELLED, {"label": -1}, "neither true nor false", "label", "-1"),
    "a label that is a fraction": Bad(LABELLED, {"label": 0.5}, "neither true nor false", "label", "0.5"),
    "a label that is null": Bad(LABELLED, {"label": None}, "null", "label", "null"),
    "a positive log-probability": Bad(
        {**PAIR, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}, {"ref_chosen_logps": 3.0}, "is positive",
        "ref_chosen_logps", "3.0",
    ),
    "one log-probability of two": Bad(
        {**PAIR, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}, {"ref_rejected_logps": None}, "null",
        "ref_rejected_logps", "null",
    ),
    "tools that are no list": Bad({**CHAT, "tools": []}, {"tools": "search"}, "expected a list", "tools", "search"),
    "template arguments that are no object": Bad(
        {**CHAT, "chat_template_kwargs": {}}, {"chat_template_kwargs": "{thinking"}, "expected an object",
        "chat_template_kwargs", "{thinking",
    ),
    "an id that is a list": Bad({**PAIR, "id": None}, {"id": [1]}, "an id is neither", "id", "[1]"),
    "an unknown ShareGPT role": Bad(
        SHAREGPT, {"conversations": [{"from": "bot", "value": "x"}]}, "unknown role", "conversations[0].from", "bot"
    ),
    "a function call that is no JSON": Bad(
        SHAREGPT, {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "go"}]},
        "function call cannot be read", "conversations[1].value", "go",
    ),
    "two system prompts": Bad(
        {**SHAREGPT, "system": None},
        {"system": "Be kind.", "conversations": [{"from": "system", "value": "Be rude."}, *SHAREGPT["conversations"]]},
        "contradict", "system", "Be kind.",
    ),
    "a history that is no list of pairs": Bad(
        {**ALPACA, "history": []}, {"history": [["only a question"]]}, "past turn", "history[0]", "only a question"
    ),
    "an empty instruction": Bad(ALPACA, {"instruction": ""}, "text is empty", "instruction", "''"),
    "a completion without a response": Bad(
        FEEDBACK, {"completions": [{"overall_score": 1.0}]}, "not an object with a response", "completions[0]", "1.0"
    ),
    "a verdict that is a word": Bad(
        ANYTHING, {"overall_response": "first"}, "expected a number", "overall_response", "first"
    ),
    "a verdict that is null": Bad(ANYTHING, {"overall_response": None}, "null", "overall_response", "null"),
    "a text that is no transcript": Bad(HH, {"rejected": "Go away."}, "not a transcript", "rejected", "Go away."),
}  # fmt: skip


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


@pytest.mark.parametrize("bad", ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_an_error_that_names_it(bad: Bad, tmp_path: Path):
    broken = {key: value for key, value in {**bad.good, **bad.change}.items() if key not in bad.without}
    path = write_jsonl(tmp_path / "rows.jsonl", [bad.good, bad.good, broken])
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, bad.what, 3, bad.field, bad.value)


@pytest.mark.parametrize("bad", ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_can_be_dropped_and_is_counted(bad: Bad, tmp_path: Path):
    good = [bad.good, bad.good]
    if "label" in bad.good:
        good[1] = {**bad.good, "label": False}
    broken = {key: value for key, value in {**bad.good, **bad.change}.items() if key not in bad.without}
    path = write_jsonl(tmp_path / "rows.jsonl", [*good, broken])
    loaded = load(path, rules=Rules(on_bad_row="drop"))
    assert [row.row for row in loaded.rows] == [1, 2]
    assert [row.row for row in loaded.dropped] == [3]
    assert loaded.dropped[0].reason.startswith("bad row: ")
    assert bad.what in loaded.dropped[0].reason


LINE = json.dumps(PAIR).encode()
TWO = LINE + b"\n" + LINE + b"\n"
FILES = {
    "an empty file": ("a.jsonl", b"", "no rows", None, "", "0 rows"),
    "an empty gzip file": ("a.jsonl.gz", gzip.compress(b""), "no rows", None, "", "0 rows"),
    "a file of blank lines": ("a.jsonl", b"\n\n  \n", "no rows", None, "", "0 rows"),
    "an empty JSON file": ("a.json", b" ", "no rows", None, "", "0 rows"),
    "an empty JSON list": ("a.json", b"[]", "no rows", None, "", "0 rows"),
    "an unknown ending": ("a.txt", TWO, "unknown kind", None, "", "a.txt"),
    "not gzip": ("a.jsonl.gz", TWO, "not gzip", 1, "", "gzip"),
    "gzip that is cut off": ("a.jsonl.gz", gzip.compress(TWO)[:-12], "cut off", None, "", "marker"),
    "invalid UTF-8": ("a.jsonl", TWO + b'{"prompt": "caf\xe9"}', "not valid UTF-8", 3, "", r"caf\xe9"),
    "UTF-16": ("a.jsonl", TWO.decode().encode("utf-16"), "not valid UTF-8", 1, "", r"\xff"),
    "invalid JSON": ("a.jsonl", TWO + b'{"prompt": oops}\n', "invalid JSON at column 12", 3, "", "oops"),
    "single quotes": ("a.jsonl", b"{'prompt': 'x'}\n", "invalid JSON", 1, "", "prompt"),
    "a line that is cut off": ("a.jsonl", TWO + LINE[:45], "Unterminated string", 3, "", "Fi"),
    "two objects on a line": ("a.jsonl", LINE + LINE, "Extra data", 1, "", "prompt"),
    "a list on a line": ("a.jsonl", TWO + b'["a", "b"]', "not an object", 3, "", "['a', 'b']"),
    "a JSON list named jsonl": ("a.jsonl", b"[" + LINE + b"]", "not an object", 1, "", "How are you?"),
    "a text on a line": ("a.jsonl", TWO + b'"text"', "not an object", 3, "", "text"),
    "a number on a line": ("a.jsonl", TWO + b"5", "not an object", 3, "", "5"),
    "an empty object": ("a.jsonl", TWO + b"{}", "no fields", 3, "", "{}"),
    "a blank line": ("a.jsonl", LINE + b"\n\n" + LINE, "blank", 2, "", "''"),
    "a field twice": ("a.jsonl", TWO + b'{"prompt": "a", "prompt": "b"}', "field twice", 3, "prompt", '"b"'),
    "nesting without end": ("a.jsonl", b'{"a":' * 10**5, "too large", 1, "", "recursion"),
    "a number without end": ("a.jsonl", b'{"a":' + b"1" * 5000 + b"}", "too large", 1, "", "digits"),
    "a JSON object without rows": ("a.json", b'{"rows":\n [1]}', "no list of rows", None, "", "rows"),
    "data that are no list": ("a.json", b'{"data":\n {"a": 1}}', "no list of rows", None, "", "data"),
    "an element that is no object": ("a.json", b"[" + LINE + b", 3]", "not an object", 2, "", "3"),
    "an invalid JSON document": ("a.json", b"[" + LINE + b",]", "invalid JSON at line 1", None, "", ","),
    "a line of CSV with more cells": (
        "a.csv", b"prompt,chosen,rejected\na,b,c\nd,e,f,g\n", "a line has 4 cells", 3, "", "g",
    ),
    "a line of CSV with fewer cells": ("a.csv", b"prompt,chosen,rejected\na,b\n", "a line has 2 cells", 2, "", "b"),
    "a column of CSV twice": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "name of another", 1, "chosen", "chosen"),
    "a column of CSV without a name": ("a.csv", b"prompt,,chosen\na,b,c\n", "no name", 1, "", "prompt"),
    "a quote that is not closed": ("a.csv", b'prompt,chosen,rejected\n"a,b,c\n', "not valid CSV", 2, "", "end of data"),
    "CSV in Latin-1": ("a.csv", b"prompt,chosen,rejected\na,\xe9,c\n", "not valid UTF-8", 2, "", r"\xe9"),
    "CSV of names only": ("a.csv", b"prompt,chosen,rejected\n", "no rows", None, "", "0 rows"),
    "CSV without names": ("a.csv", b"Hi,Hello,Go\nBye,Bye,No\n", "no format", None, "Hi, Hello, Go", "Hello"),
    "an empty cell": ("a.csv", b"prompt,chosen,rejected\na,b,c\nd,,f\n", "null", 3, "chosen", "null"),
    "Parquet that is something else": ("a.parquet", TWO, "Parquet file cannot be read", 1, "", "magic"),
    "an empty Parquet file": ("a.parquet", b"", "Parquet file cannot be read", 1, "", "0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES.values(), ids=FILES.keys())
def test_a_broken_file_is_an_error_that_names_it(case, tmp_path: Path):
    name, content, what, row, field, value = case
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    row = caught.value.row if name.endswith(".gz") else row  # how far a cut file can be read is gzip's affair
    check(caught.value, path, what, row, field, value)


def test_errors_of_files_pass_through_the_cache_of_datasets(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TWO + b"{oops\n")
    for _ in range(2):
        with pytest.raises(DataError, match="invalid JSON") as caught:
            read_rows(path, cache_dir=tmp_path / "cache")
        assert caught.value.row == 3


def test_parquet_that_is_cut_off(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([PAIR] * 10), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "Parquet file cannot be read", 1, "", "magic")


def test_a_file_without_permission(tmp_path: Path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", [PAIR])

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "cannot be opened", None, "", "Permission denied")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path):
    write_jsonl(tmp_path / "train.jsonl", [PAIR])
    with pytest.raises(DataError) as caught:
        load(tmp_path / "trian.jsonl")
    check(caught.value, tmp_path / "trian.jsonl", "no such file", None, "", "1 entries")
    assert f"did you mean '{tmp_path / 'train.jsonl'}'" in str(caught.value)


def test_a_missing_folder(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load(tmp_path / "nowhere" / "train.jsonl")
    check(caught.value, tmp_path / "nowhere", "no such file", None, "", "no folder")


def test_a_name_that_is_neither_here_nor_on_the_hub():
    with pytest.raises(DataError, match="neither a file or folder here"):
        load("nobody/nothing")


@pytest.mark.parametrize("files", [[], ["notes.txt", ".hidden.jsonl"]], ids=["empty", "other files"])
def test_a_folder_without_data(files: list[str], tmp_path: Path):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    check(caught.value, tmp_path, "no data files", None, "", files[0] if files else "nothing")


def test_a_split_that_is_not_there(tmp_path: Path):
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [PAIR])
    with pytest.raises(DataError, match="no split 'tset'") as caught:
        load(f"{tmp_path}@tset")
    assert "did you mean 'test'" in str(caught.value)


def test_a_split_of_a_file(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    with pytest.raises(ConfigError, match="no splits"):
        load(f"{path}@train")


def test_a_damaged_saved_data_set(tmp_path: Path):
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    check(caught.value, tmp_path, "saved data set cannot be read", None, "", "_")


SETS = {
    "unknown columns": ([{"a": 1, "b": 2}], {}, "no format", "a, b", "prompt"),
    "no rejected": ([{"prompt": "a", "chosen": "b"}], {"name": "pairs"}, "no format", "prompt, chosen", "rejected"),
    "a misspelt column": ([{"prompt": "a", "chosen": "b", "reject": "c"}], {}, "like 'rejected'", "reject", "prompt"),
    "a misspelt label": ([{"prompt": "a", "completion": "b", "lable": True}], {}, "like 'label'", "lable", "prompt"),
    "two formats": ([{**PAIR, **LABELLED}], {}, "several ways", "prompt, chosen, rejected, completion, label", "or"),
    "messages and text": ([{**CONVERSATION, "text": "x"}], {}, "several ways", "messages, text", "'text'"),
    "a mapped column that is missing": (
        [{"question": "a", "good": "b", "bad": "c"}], {"columns": {"prompt": "query", "chosen": "good"}},
        "a column that is not there", "query", "question",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETS.values(), ids=SETS.keys())
def test_columns_that_cannot_be_read(case, tmp_path: Path):
    rows, settings, what, field, value = case
    path = write_jsonl(tmp_path / "rows.jsonl", rows * 3)
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    check(caught.value, path, what, None, field, value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"chosen": "prompt", "rejected": "prompt"}}, "reads the column 'prompt' twice"),
        ({"columns": {"choosen": "chosen"}}, "did you mean 'chosen'"),
        ({"name": "tripels"}, "no data format 'tripels'"),
        ({"convert": "best_wurst"}, "did you mean 'best_worst'"),
        ({"convert": "all_pairs"}, "converts ranked, but the data are pairs"),
    ],
)
def test_settings_that_cannot_be_followed(settings, message: str, tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, **settings)
    assert caught.value.fix


def test_labels_that_are_all_the_same(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [LABELLED] * 4)
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "all 4 labels are the same", 1, "label", "True")


def test_an_id_that_stands_twice(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{**PAIR, "id": name} for name in ("a", "b", "a")])
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "same id", 3, "id", "a, first in row 1")
    assert len(load(path, columns={"id": None}).rows) == 3
    assert [row.row for row in load(path, rules=Rules(on_bad_row="drop")).dropped] == [3]


DROPS = {
    "identical texts": (PAIR, {"rejected": "Fine, thanks. "}, None, "identical"),
    "identical answers": (WHOLE, {"rejected": WHOLE["chosen"]}, None, "identical"),
    "identical texts without a prompt": (
        {"chosen": "Q?\nA.", "rejected": "Q?\nB."}, {"chosen": "Q?\nB."}, None, "identical",
    ),
    "a verdict of 0": (ANYTHING, {"overall_response": 0}, None, "no response was preferred"),
    "a verdict of 3": (ANYTHING, {"overall_response": 3}, None, "no response was preferred"),
    "an empty recorded answer": (ANYTHING, {"response_1": ""}, None, "empty"),
    "a transcript without an answer": (
        HH, {"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi\n\nAssistant: Go."}, None, "does not end",
    ),
    "a transcript that the assistant begins": (
        HH, {"chosen": "\n\nAssistant: Hi\n\nHuman: a\n\nAssistant: b"}, None, "does not end",
    ),
    "a transcript with an empty question": (HH, {"chosen": "\n\nHuman: \n\nAssistant: b"}, None, "does not end"),
    "a transcript with an empty answer": (HH, {"chosen": "\n\nHuman: Hi\n\nAssistant: "}, None, "empty"),
    "transcripts of different questions": (HH, {"chosen": "\n\nHuman: Ho\n\nAssistant: He"}, None, "share no prompt"),
    "one response": (RANKED, {"responses": ["Fine."], "scores": [1.0]}, None, "fewer than two"),
    "one response that is not empty": (RANKED, {"responses": ["Fine.", ""]}, None, "fewer than two"),
    "all tied, best and worst": (RANKED, {"scores": [0.5, 0.5]}, "best_worst", "no response was preferred"),
    "all tied, all pairs": (RANKED, {"scores": [0.5, 0.5]}, "all_pairs", "no response was preferred"),
    "all tied, adjacent pairs": (RANKED, {"scores": [0.5, 0.5]}, "adjacent_pairs", "no response was preferred"),
    "ranked but identical": (RANKED, {"responses": ["a", "a"]}, "best_worst", "identical"),
}  # fmt: skip


@pytest.mark.parametrize("case", DROPS.values(), ids=DROPS.keys())
def test_a_row_without_a_preference_is_counted(case, tmp_path: Path):
    good, change, convert, reason = case
    path = write_jsonl(tmp_path / "rows.jsonl", [good, {**good, **change}, good])
    loaded = load(path, convert=convert)
    assert [row.row for row in loaded.rows] == [1, 3]
    assert [row.row for row in loaded.dropped] == [2]
    assert reason in loaded.dropped[0].reason


def test_rows_without_a_preference_can_be_an_error(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [ANYTHING, {**ANYTHING, "overall_response": 3}])
    with pytest.raises(DataError) as caught:
        load(path, rules=Rules(on_no_preference="error"))
    check(caught.value, path, "no response was preferred", 2, "", "overall_response 3")


def test_a_set_of_which_nothing_is_left(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{**PAIR, "rejected": PAIR["chosen"]}] * 2)
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "no row is left: all 2 were dropped", None, "", "row 2: the two responses are identical")


def test_a_huge_field_is_read_whole(tmp_path: Path):
    text = "long " * 200_000
    csv_file = tmp_path / "rows.csv"
    csv_file.write_text(f"prompt,chosen,rejected\nHi,{text},no\n")
    for path in (csv_file, write_jsonl(tmp_path / "rows.jsonl", [{**PAIR, "chosen": text}])):
        assert load(path).rows[0].completions[0] == text
