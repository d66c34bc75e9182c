"""Score files of three kinds are read alike, malformed lines are named, and pairs are put together."""

from __future__ import annotations

import json

import pytest

from lit_align.core.errors import DataError
from lit_align.evaluation.score_files import (
    Scored,
    pair_up,
    prompt_text,
    read_scores,
    with_columns,
    write_align_anything,
    write_scores,
)

LINE = {
    "id": "7",
    "source": "chosen",
    "model": "gpt",
    "rm": "judge",
    "prompt": "Hello?",
    "response": "Hi.",
    "score": 0.5,
    "len_tokens": 2,
    "len_chars": 3,
    "meta": {"subset": "chat"},
}
SCORED = {
    "file": "pairs.jsonl",
    "row": 3,
    "response": 1,
    "role": "rejected",
    "prompt": "<s>Hello?",
    "completion": "No</s> <|im_end|>\n",
    "truncated": False,
    "tokens": 3,
    "reward": -1.25,
}


def record(id_: str, source: str, score: float | None, **more) -> Scored:
    values = {"model": "", "rm": "rm", "prompt": "p", "response": source, "len_tokens": 3, "len_chars": 8, "meta": {}}
    return Scored(id_, source, **{**values, "score": score, **more})


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_is_written_is_read(tmp_path):
    records = [Scored(**LINE), Scored(**{**LINE, "source": "generated", "score": None, "len_tokens": None})]
    write_scores(tmp_path / "deep" / "scores.jsonl", records)
    assert read_scores(tmp_path / "deep" / "scores.jsonl") == records
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scores.jsonl"]


def test_records_of_lit_align_score(tmp_path):
    (found,) = read_scores(write(tmp_path / "trained.jsonl", SCORED))
    assert found == Scored(
        "pairs.jsonl:3",
        "rejected",
        "",
        "trained",
        "<s>Hello?",
        "No",
        -1.25,
        3,
        2,
        {"file": "pairs.jsonl", "row": 3, "response": 1, "truncated": False},
    )


def test_records_of_lit_align_judge(tmp_path):
    line = {"file": "d.jsonl", "row": 2, "response": 1, "role": "rejected", "prompt": "p", "completion": "no"}
    lines = [line | {"score": 0.5, "reason": ""}, line | {"score": None, "reason": "no score could be read: x"}]
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    first, second = read_scores(path, "llm")
    assert (first.id, first.source, first.rm, first.score) == ("d.jsonl:2", "rejected", "llm", 0.5)
    assert (second.score, second.meta["reason"]) == (None, "no score could be read: x")


def test_ranked_data_are_no_scores(tmp_path):
    path = tmp_path / "ranked.jsonl"
    path.write_text(json.dumps({"prompt": "p", "source": "web", "responses": ["a"], "scores": [1]}) + "\n")
    with pytest.raises(DataError, match="a score has no response"):
        read_scores(path)


def test_lists_of_align_anything_go_both_ways(tmp_path):
    rows = [{"prompt": "p", "response": "r", "score": 1}, {"prompt": "q", "response": "s", "score": -2.5}]
    (tmp_path / "rm.json").write_text(json.dumps(rows))
    first, second = read_scores(tmp_path / "rm.json", "mine")
    assert (first.source, first.rm, first.score, first.len_tokens, first.len_chars) == (
        "generated",
        "mine",
        1.0,
        None,
        1,
    )
    assert first.id != second.id
    write_align_anything(tmp_path / "out.json", [first, second])
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    assert read_scores(tmp_path / "out.json", "mine") == [first, second]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": "high"}, "a score is a finite number"),
        ({"score": float("nan")}, "a score is a finite number"),
        ({"score": True}, "a score is a finite number"),
        ({"source": "somewhere"}, "nowhere that is known"),
        ({"response": None}, "a score has no response"),
        ({"response": 3}, "a text was expected"),
        ({"prompt": 3}, "a prompt is a text or a list of messages"),
        ({"len_tokens": -1}, "a length is a whole number"),
        ({"meta": [1]}, "meta is an object"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, words):
    with pytest.raises(DataError, match=words) as caught:
        read_scores(write(tmp_path / "bad.jsonl", LINE, {**LINE, **change}))
    assert "bad.jsonl, row 2" in str(caught.value)


def test_a_line_without_a_score_or_reward_is_named(tmp_path):
    without = {name: value for name, value in LINE.items() if name != "score"}
    with pytest.raises(DataError, match="a score has no score") as caught:
        read_scores(write(tmp_path / "bad.jsonl", without))
    assert "row 1" in str(caught.value)
    no_reward = {name: value for name, value in SCORED.items() if name != "reward"} | {"logps": -3.0}
    with pytest.raises(DataError, match="a record has no reward"):
        read_scores(write(tmp_path / "bad.jsonl", no_reward))
    with pytest.raises(DataError, match="a response has no reward"):
        read_scores(write(tmp_path / "bad.jsonl", {**SCORED, "reward": None}))
    (tmp_path / "cut.jsonl").write_text(json.dumps(LINE) + '\n{"id": "8", "sou')
    with pytest.raises(DataError, match="invalid JSON") as caught:
        read_scores(tmp_path / "cut.jsonl")
    assert "row 2" in str(caught.value)


def test_pairs_of_a_row():
    records = [
        record("a", "chosen", 1.0),
        record("b", "rejected", 0.0),
        record("a", "rejected", 2.0),
        record("b", "chosen", None),
        record("c", "generated", 3.0),
    ]
    found = pair_up(records)
    assert [(pair.chosen.score, pair.rejected.score) for pair in found.pairs] == [(1.0, 2.0)]
    assert found.left_out == {"no score": 1, "no other response to compare with": 2}


def test_ranked_responses_make_a_pair_of_every_two_that_differ():
    given = [3, 1, 3]
    found = pair_up([record("a", "generated", i, meta={"given_score": g}) for i, g in enumerate(given)])
    assert [(pair.chosen.score, pair.rejected.score) for pair in found.pairs] == [(0, 1), (2, 1)]
    assert not found.left_out


def test_columns_of_the_data_are_found_by_file_and_row(tmp_path):
    data = write(tmp_path / "data.jsonl", {"source": "web", "chosen": "x"}, {"source": "book"})
    records = [
        record("a", "chosen", 1.0, meta={"file": str(data), "row": 2}),
        record("b", "chosen", 1.0, meta={"file": str(data), "row": 1, "source": "mine"}),
        record("c", "chosen", 1.0, meta={"file": "gone.jsonl", "row": 1}),
        record("d", "chosen", 1.0),
    ]
    found = with_columns(records, ["source", "margin"])
    assert [one.meta.get("source") for one in found] == ["book", "mine", None, None]
    assert all("chosen" not in one.meta for one in found)


def test_ranked_data_say_who_wrote_a_response(tmp_path):
    whole = {"prompt": "p", "responses": ["a", "b"], "models": ["one", "two"], "scores": [1, 2]}
    data = write(tmp_path / "data.jsonl", whole, {**whole, "responses": ["", "b"]})
    metas = [{"file": str(data), "row": row, "response": place} for row, place in ((1, 0), (1, 1), (2, 0), (1, 7))]
    found = with_columns([record("a", "generated", 1.0, meta=meta) for meta in metas], [])
    assert [one.model for one in found] == ["one", "two", "", ""]


def test_a_prompt_for_people():
    assert prompt_text("plain") == "plain"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert prompt_text(turns) == "user: Hi\n\nassistant: Yes?"
