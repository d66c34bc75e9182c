"""Columns and settings that do not fit, and what only a whole set of rows shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import Rules
from tests.data.reading import (
    ANYTHING,
    CONVERSATION,
    HH,
    LABELLED,
    PAIR,
    RANKED,
    WHOLE,
    check,
    load,
    write_jsonl,
)

SETS = {
    "unknown columns": ([{"a": 1, "b": 2}], {}, "no format", "a, b", "prompt"),
    "a format that lacks columns": (
        [{"prompt": "a", "chosen": "b"}], {"name": "pairs"}, "not of the data.format 'pairs'", "prompt, chosen",
        "it needs rejected; leave data.format out",
    ),
    "a format of other rows": (
        [PAIR], {"name": "HH transcripts"}, "not of the data.format 'HH", "prompt, chosen, rejected",
        "its columns hold other things; leave data.format out to have the format recognised (--data.format null)",
    ),
    "a misspelt column": ([{"prompt": "a", "chosen": "b", "reject": "c"}], {}, "like 'rejected'", "reject", "prompt"),
    "a misspelt label": ([{"prompt": "a", "completion": "b", "lable": True}], {}, "like 'label'", "lable", "prompt"),
    "two formats": ([{**PAIR, **LABELLED}], {}, "several ways", "prompt, chosen, rejected, completion, label", "or"),
    "messages and text": ([{**CONVERSATION, "text": "x"}], {}, "several ways", "messages, text", "'text'"),
    "a mapped column that is missing": (
        [{"question": "a", "good": "b", "bad": "c"}], {"columns": {"prompt": "query", "chosen": "good"}},
        "a column that is not there", "query",
        "{prompt: query, chosen: good} was made for other data, clear it with --data.columns null",
    ),
    "a pair under other names": (
        [{"system": "s", "instruction": "a", "chosen_response": "b", "rejected_response": "c", "chosen_score": 1}], {},
        "no format", "system, instruction, chosen_response, rejected_response, chosen_score",
        "data.columns={prompt: instruction, chosen: chosen_response, rejected: rejected_response}",
    ),
    "a demonstration under other names": (
        [{"question": "a", "answer": "b"}], {}, "no format", "question, answer",
        "data.columns={prompt: question, completion: answer}",
    ),
    "a prompt under another name": (
        [{"question": "a", "chosen": "So\nb", "rejected": "So\nc"}], {}, "the prompt seems to stand", "question",
        "data.columns={prompt: question}; if it is something else, set data.columns={prompt: null}",
    ),
    "responses under other names": (
        [{"prompt": "a", "chosen_input": "b", "rejected_input": "c"}], {"wanted": DataKind.PAIRS},
        "the response seems to stand", "chosen_input, rejected_input", "chosen: chosen_input, rejected: rejected_input",
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
    "equal scores of a pair": (
        {**PAIR, "score_chosen": 5, "score_rejected": 1}, {"score_rejected": 5.0}, None, "no response was preferred",
    ),
    "equal scores of messages": (
        {**WHOLE, "chosen_score": "5", "rejected_score": 1}, {"rejected_score": "5.0"}, None, "was preferred",
    ),
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
    assert "max_length" not in str(caught.value)


def test_a_huge_field_is_read_whole(tmp_path: Path):
    text = "long " * 200_000
    csv_file = tmp_path / "rows.csv"
    csv_file.write_text(f"prompt,chosen,rejected\nHi,{text},no\n")
    for path in (csv_file, write_jsonl(tmp_path / "rows.jsonl", [{**PAIR, "chosen": text}])):
        assert load(path).rows[0].completions[0] == text
