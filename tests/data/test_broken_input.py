"""Broken rows never train: each kind ends in an error that names the place and a fix, or in a counted drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lit_align.core.errors import DataError
from lit_align.data.canonical import Rules
from tests.data.reading import (
    ALPACA,
    ANYTHING,
    CHAT,
    CONVERSATION,
    FEEDBACK,
    HH,
    LABELLED,
    PAIR,
    RANKED,
    SHAREGPT,
    WHOLE,
    assistant,
    check,
    load,
    system,
    user,
    write_jsonl,
)


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
    "messages as Python prints them": Bad(
        PAIR, {"chosen": str([assistant("Fine.")])}, "as Python prints them", "chosen", "json.dumps(messages)"
    ),
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
    "a label that is a number in a text": Bad(LABELLED, {"label": "0.50"}, "neither true nor false", "label", "0.50"),
    "a label that is NaN": Bad(LABELLED, {"label": NAN}, "neither true nor false", "label", "nan"),
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
