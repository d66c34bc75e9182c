"""Demonstrations of judging."""

from __future__ import annotations

import pytest

from lit_align.core.errors import DataError
from lit_align.judges import SelfJudge, judgements
from lit_align.judges.asking import opened
from lit_align.judges.llm_score import parse_score

ROW = {"prompt": "Say hello.", "responses": ["Hi!", "No.", "Hello.", "Hi."], "scores": [3.0, -1.0, 9.5, 3.0]}


@pytest.mark.parametrize("as_chat", [False, True])
def test_each_answer_becomes_a_question_with_its_place_as_the_score(as_chat):
    judge = SelfJudge("unused", mode="text", as_chat=as_chat)
    found = judgements([ROW], judge)
    said = [row["completion"][0]["content"] if as_chat else row["completion"] for row in found]
    assert [parse_score(text, judge.pattern, 0, 5) for text in said] == [2, 0, 5, 2]
    for row, response in zip(found, ROW["responses"], strict=True):
        assert row["prompt"] == opened(judge.question("Say hello.", response)[0], "", as_chat=as_chat)


def test_answers_that_are_all_alike_teach_nothing():
    assert judgements([{**ROW, "scores": [1, 1, 1, 1]}], SelfJudge("unused")) == []


def test_conversations_are_read():
    row = {
        "prompt": [{"role": "user", "content": "Say hello."}],
        "responses": [[{"role": "assistant", "content": text}] for text in ("Hi!", "No.")],
        "scores": [2, 1],
    }
    first, _ = judgements([row], SelfJudge("unused", high=3))
    assert "[ANSWER]\nHi!\n[END OF ANSWER]" in first["prompt"][0]["content"]
    assert first["completion"] == [{"role": "assistant", "content": "Score: 3"}]


def test_a_missing_score_is_an_error():
    with pytest.raises(DataError, match="no score") as error:
        judgements([ROW, {**ROW, "scores": [1, 2, None, 3]}], SelfJudge("unused"))
    assert error.value.row == 2
