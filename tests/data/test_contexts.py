"""Prompts with a context that only a teacher reads: the same completion after both, whole contexts only."""

from __future__ import annotations

import pytest
import torch

from lit_align.core.batch import DataKind, Example, Layout
from lit_align.core.errors import DataError
from lit_align.data.collate import Collator, Drawn
from lit_align.data.outcome import CONTEXT_CUT
from tests.data.modules import QUIET, write
from tests.data.reading import assistant, user

pytestmark = QUIET

ROW = {"prompt": "Why?", "context": "Be kind.\n", "completion": " So."}
TALK = {"prompt": [user("Why?")], "completion": [assistant("So.")]}


def read(tmp_path, make, rows, kind=DataKind.CONTEXTUAL, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    return data, data.examples("train", kind)


def texts(data, example):
    return [
        (data.tokenizer.decode(ids[:start]), data.tokenizer.decode(ids[start:]))
        for ids, start in zip(example.ids, example.prompt_lengths, strict=True)
    ]


def test_a_context_stands_before_a_plain_prompt_as_it_is(tmp_path, make):
    data, [example] = read(tmp_path, make, [ROW])
    (own, answer), (seen, again) = texts(data, example)
    assert (own, seen) == ("Why?", "Be kind.\nWhy?")
    assert answer == again == " So.</s>"


def test_a_text_before_a_conversation_is_a_system_turn(tmp_path, make):
    system = [{"role": "system", "content": "Be brief."}]
    rows = [{**TALK, "context": "Be kind."}, {**TALK, "prompt": [*system, *TALK["prompt"]], "context": "Be kind."}]
    data, (alone, beside) = read(tmp_path, make, rows)
    assert "Be kind." not in texts(data, alone)[0][0]
    assert "Be kind." in texts(data, alone)[1][0]
    assert "Be kind.\n\nBe brief." in texts(data, beside)[1][0]
    assert texts(data, beside)[0][1] == texts(data, beside)[1][1]


def test_a_context_may_be_turns(tmp_path, make):
    data, [example] = read(tmp_path, make, [{**TALK, "context": [user("And?"), assistant("Well.")]}])
    (own, _), (seen, _) = texts(data, example)
    assert "Well." not in own
    assert seen.index("And?") < seen.index("Well.") < seen.index("Why?")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({**ROW, "context": ""}, "context"),
        ({**ROW, "context": None}, "context"),
        ({**ROW, "context": [user("And?"), assistant("Well.")]}, "context"),
        ({**TALK, "context": [user("And?")]}, "context"),
        ({**ROW, "label": False}, "label"),
    ],
)
def test_what_is_no_context_is_named(tmp_path, make, row, field):
    good = ROW if isinstance(row["prompt"], str) else {**TALK, "context": "Be kind."}
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, [*[good] * 9, row])
    assert caught.value.row == 10
    assert caught.value.field.startswith(field)


def test_a_cut_context_teaches_nothing(tmp_path, make):
    rows = [{**ROW, "context": "Be kind. " * 20}, ROW]
    data, examples = read(tmp_path, make, rows, max_length=24, max_prompt_length=16)
    assert [example.row for example in examples] == [2]
    assert data.reports["train"].dropped[CONTEXT_CUT].rows == [1]


def test_a_cut_completion_is_the_same_on_both_sides(tmp_path, make):
    data, [example] = read(tmp_path, make, [{**ROW, "completion": " So it is." * 9}], max_length=40)
    own, seen = (ids[start:] for ids, start in zip(example.ids, example.prompt_lengths, strict=True))
    assert own == seen
    assert max(map(len, example.ids)) == 40
    assert data.reports["train"].events["eos_lost"].rows == [1]


def test_who_imitates_passes_over_the_context(tmp_path, make):
    data, [example] = read(tmp_path, make, [ROW], DataKind.DEMONSTRATIONS)
    assert texts(data, example) == [("Why?", " So.</s>")]
    assert "not read: context" in data.reports["train"].format


@pytest.mark.parametrize("layout", Layout)
def test_batches_hold_both_sides_in_one_order(layout):
    examples = [
        Example(3, [[1, 10, 11], [7, 7, 1, 10, 11]], [1, 3], [[0, 1], [0, 1]]),
        Example(4, [[2, 2, 12, 13], [8, 2, 2, 12, 13]], [2, 3]),
    ]
    batch = Collator(DataKind.CONTEXTUAL, layout)(Drawn(examples))
    assert batch.rows.target.tolist() == batch.teacher_rows.target.tolist() == [11, 12, 13]
    assert batch.rows.response.tolist() == batch.teacher_rows.response.tolist() == [0, 1, 1]
    assert torch.equal(batch.rows.response_lengths, batch.teacher_rows.response_lengths)
    assert batch.source_rows.tolist() == [3, 4]
    assert batch.counts()[:2] == (2, 3)
