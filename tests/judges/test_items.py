"""What is to be judged, read from data of all kinds."""

from __future__ import annotations

import json

import pytest

from lit_align.core.errors import ConfigError
from lit_align.judges.items import read_items

PAIR = {"prompt": "p ", "chosen": "a", "rejected": "b", "source": "here"}
TURNS = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]


@pytest.fixture
def read(tmp_path):
    def read(*rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_items(str(path), **settings)

    return read


def test_responses_of_pairs(read):
    found = read(PAIR, PAIR | {"prompt": "q "})
    assert [(item.row, item.prompt, item.texts, item.about) for item in found.items] == [
        (1, "p ", ("a",), {"response": 0, "role": "chosen"}),
        (1, "p ", ("b",), {"response": 1, "role": "rejected"}),
        (2, "q ", ("a",), {"response": 0, "role": "chosen"}),
        (2, "q ", ("b",), {"response": 1, "role": "rejected"}),
    ]
    assert found.columns(1, 3) == {"source": ["here", "here"]}


def test_pairs(read):
    found = read(PAIR, pairs=True)
    assert [(item.prompt, item.texts, item.about) for item in found.items] == [("p ", ("a", "b"), {"pair": 0})]


def test_labelled_and_ranked_responses(read):
    (item,) = read({"prompt": "p", "completion": "a", "label": True}).items
    assert item.about == {"response": 0, "label": True}
    found = read({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2]})
    assert [item.about["given_score"] for item in found.items] == [1, 3, 2]


def test_ranked_responses_as_pairs(read):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}
    with pytest.raises(ConfigError, match="--convert best_worst"):
        read(row, pairs=True)
    assert [item.texts for item in read(row, pairs=True, convert="best_worst").items] == [("b", "a")]


def test_conversations_keep_their_turns(read):
    (item,) = read({"messages": TURNS}).items
    assert (item.prompt, item.texts) == (TURNS[:3], ("assistant",))
    pair = {"prompt": TURNS[:1], "chosen": TURNS[1:2], "rejected": [{"role": "assistant", "content": "no"}]}
    (item,) = read(pair, pairs=True).items
    assert (item.prompt, item.texts) == (TURNS[:1], ("assistant", "no"))


def test_responses_under_another_name(read):
    row = {"question": "p", "solution": "a", "is_correct": True, "ground_truth": "3", "completions": 1}
    names = {"prompt": "question", "completion": "solution", "label": "is_correct"}
    found = read(row, columns=names)
    assert found.items[0].texts == ("a",)
    assert found.columns(0, 1) == {"ground_truth": ["3"]}, (
        "not what is read already, nor what a judge's arguments are called"
    )


def test_what_is_left_out_is_counted(read):
    found = read(PAIR, PAIR | {"rejected": "a"}, {"prompt": "q", "chosen": "c", "rejected": "d"}, limit=2)
    assert (found.rows, len(found.items)) == (2, 2)
    assert found.dropped == {"the two responses are identical": 1}


def test_prompts_alone(read):
    with pytest.raises(ConfigError, match="nothing to judge"):
        read({"prompt": "p"})


def test_texts_alone(read):
    found = read({"text": "a story"})
    assert found.items == []
    assert found.dropped == {"there is no response to judge": 1}
