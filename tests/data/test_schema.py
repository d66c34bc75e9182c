from __future__ import annotations

import json
import random

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from lit_align.data.canonical import EMPTY_RESPONSE, REPEATED_PROMPT, UNSCORED_RESPONSE, CanonicalRow, Dropped
from lit_align.data.conversation import parse_transcript, shared_text
from lit_align.data.schema import normalise, recognise
from tests.data.reading import assistant, check, load, system, user, write_jsonl

A, B, HI = assistant("Hello."), assistant("Go."), user("Hi")
TOOLS = [{"type": "function", "function": {"name": "search"}}]


def read(row: dict, **settings) -> tuple[str, DataKind, CanonicalRow]:
    fmt = recognise(list(row), [row], **settings)
    result = normalise(row, fmt, settings.get("mapping"), "rows.jsonl", 1)
    assert isinstance(result, CanonicalRow)
    return fmt.name, fmt.kind, result


PAIRS = {
    "plain, explicit prompt": (
        {"prompt": "Q?", "chosen": " a", "rejected": " b"}, "pairs", "Q?", [" a", " b"],
    ),
    "plain, implicit prompt": (
        {"chosen": "The sky is blue.", "rejected": "The sky is bright."}, "pairs", "The sky is", [" blue.", " bright."],
    ),
    "plain, a prompt of lines": ({"chosen": "Q?\nyes", "rejected": "Q?\nyep"}, "pairs", "Q?\n", ["yes", "yep"]),
    "conversational, explicit prompt": (
        {"prompt": [HI], "chosen": [A], "rejected": [B]}, "pairs", [HI], [[A], [B]],
    ),
    "conversational prompt, plain answers": (
        {"prompt": [HI], "chosen": "Hello.", "rejected": "Go."}, "pairs", [HI], [[A], [B]],
    ),
    "conversational, implicit prompt": (
        {"chosen": [system("Be."), HI, A], "rejected": [system("Be."), HI, B]}, "pairs",
        [system("Be."), HI], [[A], [B]],
    ),
    "parting at an earlier answer": (
        {"chosen": [HI, A, user("More"), A], "rejected": [HI, B, user("More"), B]}, "pairs",
        [HI], [[A, user("More"), A], [B, user("More"), B]],
    ),
    "parting at a question": (
        {"chosen": [HI, A, user("x"), A], "rejected": [HI, A, user("y"), B]}, "pairs",
        [HI], [[A, user("x"), A], [A, user("y"), B]],
    ),
    "one ends where the other goes on": (
        {"chosen": [HI, A, user("x"), B], "rejected": [HI, A]}, "pairs", [HI], [[A, user("x"), B], [A]],
    ),
    "HH": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: Go."},
        "HH transcripts", [HI], [[A], [B]],
    ),
    "HH, the start in its own column": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello.", "rejected": " Go."},
        "HH transcripts", [HI], [[A], [B]],
    ),
    "HH of several turns": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: x\n\nAssistant: Hello.",
         "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: x\n\nAssistant: Go."},
        "HH transcripts", [HI, A, user("x")], [[A], [B]],
    ),
    "UltraFeedback, binarised": (
        {"prompt": "Hi", "chosen": [HI, A], "rejected": [HI, B], "score_chosen": 8.0, "score_rejected": 5.5,
         "messages": [HI, A], "prompt_id": "x"},
        "UltraFeedback, binarised", [HI], [[A], [B]],
    ),
    "align-anything": (
        {"question": "Hi", "response_1": "Go.", "response_2": "Hello.", "overall_response": 2},
        "align-anything", [HI], [[A], [B]],
    ),
    "alpaca": (
        {"instruction": "Hi", "input": "there", "chosen": "Hello.", "rejected": "Go.", "system": "Be.",
         "history": [["Hi", "Hello."]]},
        "LLaMA-Factory alpaca pairs", [system("Be."), HI, A, user("Hi\nthere")], [[A], [B]],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello."},
         "rejected": {"from": "gpt", "value": "Go."}},
        "LLaMA-Factory sharegpt pairs", [HI], [[A], [B]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS.keys())
def test_pairs(case):
    row, name, prompt, completions = case
    found, kind, result = read(row)
    assert (found, kind) == (name, DataKind.PAIRS)
    assert result.prompt == prompt
    assert result.completions == completions
    assert result.pairs == [(0, 1)]
    assert result.left_out == {}


LABEL = {
    "plain": ({"prompt": "Q?", "completion": "a", "label": True}, "labelled completions", "Q?", "a"),
    "conversational": (
        {"prompt": [HI], "completion": [A], "label": 1}, "labelled completions", [HI], [A],
    ),
    "messages": ({"messages": [HI, A], "label": "true"}, "labelled conversations", [HI], [A]),
    "alpaca": (
        {"instruction": "Hi", "output": "Hello.", "kto_tag": True}, "LLaMA-Factory alpaca, labelled", [HI], [A],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "kto_tag": True},
        "LLaMA-Factory sharegpt, labelled", [HI], [A],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LABEL.values(), ids=LABEL.keys())
def test_labelled(case):
    row, name, prompt, completion = case
    found, kind, result = read(row)
    assert (found, kind) == (name, DataKind.UNPAIRED)
    assert (result.prompt, result.completions, result.label) == (prompt, [completion], True)


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (1.0, True),
        (-0.0, False),
        ("True", True),
        ("false", False),
        ("1", True),
        ("0", False),
        ("1.0", True),
        ("0.0", False),
    ],
)
def test_labels_that_can_be_read(value, flag: bool):
    assert read({"prompt": "Q?", "completion": "a", "label": value})[2].label is flag


def test_demonstrations():
    assert read({"text": "Once."})[2].text == "Once."
    assert read({"messages": [HI, A]})[2].messages == [HI, A]
    assert read({"prompt": "Q?", "completion": "a"})[2].completions == ["a"]
    assert read({"prompt": [HI], "completion": [A]})[2].completions == [[A]]
    assert read({"instruction": "Hi", "output": "Hello."})[2].prompt == [HI]
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "system": "Be."}
    assert read(row)[2].messages == [system("Be."), HI, A]
    for row in ({"text": "x"}, {"messages": [HI, A]}, {"prompt": "Q?", "completion": "a"}):
        assert read(row)[1] is DataKind.DEMONSTRATIONS


def test_prompts():
    assert read({"prompt": "Q?"})[1:] == (DataKind.PROMPTS, CanonicalRow(1, "Q?", []))
    assert read({"prompt": [HI]})[2].prompt == [HI]


def test_ranked():
    name, kind, row = read({"prompt": "Q?", "responses": ["a", "b", "c"], "scores": [1, 3.5, 2]})
    assert (name, kind) == ("ranked responses", DataKind.RANKED)
    assert (row.prompt, row.completions, row.scores) == ("Q?", ["a", "b", "c"], [1.0, 3.5, 2.0])
    _, _, row = read({"prompt": [HI], "completions": [[A], "Go."], "ranks": [1, 2]})
    assert (row.completions, row.scores) == ([[A], [B]], [-1.0, -2.0])
    _, _, row = read({"prompt": "Q?", "responses": ["a", " ", "c"], "scores": [1, 9, 2]})
    assert (row.completions, row.scores, row.left_out) == (["a", "c"], [1.0, 2.0], {EMPTY_RESPONSE: 1})


def test_ultrafeedback():
    answers = [("Hello.", 4.5), ("Go.", 1), ("", 3), ("So.", None)]
    row = {
        "source": "x", "instruction": "Hi", "models": [], "correct_answers": [],
        "completions": [{"response": text, "overall_score": score, "model": "m"} for text, score in answers],
    }  # fmt: skip
    name, kind, result = read(row)
    assert (name, kind) == ("UltraFeedback", DataKind.RANKED)
    assert (result.prompt, result.completions, result.scores) == ([HI], [[A], [B]], [4.5, 1.0])
    assert result.left_out == {EMPTY_RESPONSE: 1, UNSCORED_RESPONSE: 1}


def test_margins():
    pair = {"prompt": "Q?", "chosen": "a", "rejected": "b"}
    assert read(pair)[2].margin is None
    assert read({**pair, "margin": 2})[2].margins == [2.0]
    assert read({**pair, "score_chosen": "3", "score_rejected": 1.5})[2].margin == 1.5
    assert read({**pair, "margin": None})[2].margin is None


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS.keys())
def test_pairs_of_every_format_may_have_scores_and_a_timestamp(case):
    row, name, *_ = case
    more = {"chosen_score": "3", "rejected_score": 1.5, "timestamp": 7}
    if name == "align-anything":
        more.pop("chosen_score")
    _, _, result = read({**more, **row}, on_request=("timestamp",))
    expected = {"align-anything": None, "UltraFeedback, binarised": [8.0, 5.5]}.get(name, [3.0, 1.5])
    assert (result.scores, result.timestamp) == (expected, 7.0)


def test_columns_of_every_format():
    row = {"prompt": [HI], "chosen": [A], "rejected": [B], "id": 7, "tools": json.dumps(TOOLS),
           "chat_template_kwargs": {"thinking": False}, "ref_chosen_logps": -3, "ref_rejected_logps": -4.5}  # fmt: skip
    result = read(row)[2]
    assert (result.id, result.tools, result.chat_template_kwargs) == ("7", TOOLS, {"thinking": False})
    assert result.reference_logps == [-3.0, -4.5]


def test_tool_calls_are_kept():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "search", "arguments": {}}}]}
    answer = {"role": "tool", "content": "", "name": "search"}
    result = read({"messages": [HI, call, answer, answer, A]})[2]
    assert result.messages == [HI, {**call, "content": ""}, answer, answer, A]
    row = [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
           {"from": "observation", "value": "2"}, {"from": "gpt", "value": "Hello."}]  # fmt: skip
    messages = read({"conversations": row})[2].messages
    assert messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert messages[2] == {"role": "tool", "content": "2"}


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert read({"messages": [{"role": "user", "content": parts}, A]})[2].messages == [HI, A]


REPEATED = [
    {"prompt": "Q: why?", "chosen": "Q: why? So.", "rejected": "Q: why? No."},
    {"prompt": "Q: how", "chosen": "Q: how? Thus.", "rejected": "Q: how? Not."},
]
GREETING = {"prompt": "Hello", "chosen": "Hello! How can I help you?", "rejected": "Hello. What do you want?"}
PLAIN = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


def test_a_prompt_inside_the_responses_of_all_rows_is_taken_out_and_counted(tmp_path):
    loaded = load(write_jsonl(tmp_path / "rows.jsonl", REPEATED * 20))
    assert [row.completions for row in loaded.rows] == [[" So.", " No."], ["? Thus.", "? Not."]] * 20
    assert all(row.left_out == {REPEATED_PROMPT: 1} for row in loaded.rows)
    assert loaded.fmt.describe().endswith("; both responses begin with the prompt, which is cut off")


@pytest.mark.parametrize(
    "rows",
    [
        [GREETING],
        [PLAIN, GREETING],
        [GREETING, GREETING, PLAIN],
        [*REPEATED, {**PLAIN, "chosen": "Why? So."}],
        [{"prompt": "I", "chosen": "It is.", "rejected": "Is it."}] * 2,
    ],
)
def test_responses_that_happen_to_begin_with_the_prompt_are_kept_whole(rows, tmp_path):
    loaded = load(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [row.completions for row in loaded.rows] == [[row["chosen"], row["rejected"]] for row in rows]
    assert not loaded.fmt.repeats_prompt
    assert "cut off" not in loaded.fmt.describe()


def test_a_later_row_of_another_layout_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*REPEATED * 16, {**GREETING, "rejected": "Go."}])
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "does not begin with the prompt, as in the first rows", 33, "rejected", "Go.")


def test_nothing_after_a_repeated_prompt_is_an_empty_response(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*REPEATED, {**REPEATED[0], "rejected": "Q: why?"}])
    loaded = load(path)
    assert [(row.row, row.reason) for row in loaded.dropped] == [(3, "the response is empty")]


def test_the_shared_prompt_never_ends_inside_a_word():
    draw = random.Random(0)
    for _ in range(2000):
        words = [draw.choice(["a", "ab", "abc", "b", "\n", "é", "ab\n", "1.5"]) for _ in range(12)]
        one, other = " ".join(words[:8]), " ".join(words[: draw.randrange(8)] + words[8:])
        cut = shared_text(one, other)
        assert one[:cut] == other[:cut]
        if cut:
            assert one[cut - 1] == "\n" or (one[cut].isspace() and other[cut].isspace())
            assert one[cut:].strip()
            assert other[cut:].strip()


def test_turns_of_one_speaker_are_joined():
    turns = parse_transcript("\n\nHuman: a\n\nHuman: b\n\nAssistant: c: d\n\ne\n\nAssistant:  f ")
    assert turns == [user("a\n\nb"), assistant("c: d\n\ne\n\nf")]


def test_lists_in_the_cells_of_csv(tmp_path):
    path = tmp_path / "rows.csv"
    cells = [[HI, A], [HI, B]]
    quoted = ",".join('"' + json.dumps(cell).replace('"', '""') + '"' for cell in cells)
    path.write_text(f"chosen,rejected,margin\n{quoted},1.5\n")
    [row] = load(path).rows
    assert (row.prompt, row.completions, row.margin) == ([HI], [[A], [B]], 1.5)
    path.write_text('prompt,responses,scores\nQ?,"[""a"", ""b""]","[1, 2]"\n')
    [row] = load(path).rows
    assert (row.completions, row.scores) == (["a", "b"], [1.0, 2.0])


def test_a_mapping_renames_and_hides():
    row = {"question": "Q?", "good": "a", "bad": "b", "prompt": "ignore me"}
    mapping = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    fmt = recognise(list(row), [row], mapping=mapping)
    assert fmt.used == ("prompt", "chosen", "rejected")
    assert normalise(row, fmt, mapping).prompt == "Q?"
    row = {"prompt": "Q?", "completion": "a", "label": "positive"}
    assert read(row, mapping={"label": None})[1] is DataKind.DEMONSTRATIONS
    assert read({"text": "x", "lable": 1}, mapping={"label": None})[0] == "text"


def test_what_is_wanted_decides_between_readings():
    row = {"prompt": "Q?", "chosen": [HI, A], "rejected": [HI, B], "messages": [HI, A], "responses": ["a", "b"],
           "scores": [1, 2]}  # fmt: skip
    assert recognise(list(row), [row], wanted=DataKind.DEMONSTRATIONS).name == "messages"
    assert recognise(list(row), [row], wanted=DataKind.RANKED).name == "ranked responses"
    assert recognise(list(row), [row], wanted=DataKind.PAIRS).name == "pairs"
    assert recognise(list(row), [row], wanted=DataKind.PROMPTS).name == "prompts"
    assert recognise(list(row), [row], name="messages").name == "messages"
    with pytest.raises(DataError, match="several ways"):
        recognise(list(row), [row])


@pytest.mark.parametrize("case", LABEL.values(), ids=LABEL.keys())
def test_labelled_responses_are_no_demonstrations_unless_the_label_is_hidden(case):
    row, name, *_ = case
    [label] = {"label", "kto_tag"} & set(row)
    assert recognise(list(row), [row], wanted=DataKind.DEMONSTRATIONS).name == name
    assert read(row, wanted=DataKind.DEMONSTRATIONS, mapping={label: None})[1] is DataKind.DEMONSTRATIONS
    unlabelled = {**row, label: None}
    assert read(unlabelled, wanted=DataKind.DEMONSTRATIONS)[1] is DataKind.DEMONSTRATIONS


@pytest.mark.parametrize("label", ["label", "kto_tag"])
@pytest.mark.parametrize("row", [{"prompt": "Q?", "completion": "a"}, {"messages": [HI, A]}, {"text": "x"}])
def test_a_label_that_comes_late_is_not_passed_over(row, label, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "1.jsonl", [row] * 40)
    late = write_jsonl(folder / "2.jsonl", [row, {**row, label: False}])
    with pytest.raises(DataError) as caught:
        load(folder, wanted=DataKind.DEMONSTRATIONS)
    check(caught.value, late, "has a label", 2, label, "False")
    assert f"--data.columns '{{{label}: null}}'" in caught.value.fix
    assert len(load(folder, wanted=DataKind.DEMONSTRATIONS, columns={label: None}).rows) == 42


def test_one_odd_row_does_not_decide():
    good = {"prompt": "Q?", "chosen": "a", "rejected": "b"}
    odd = {"prompt": [HI], "completion": [A], "label": True, "chosen": [A]}
    fmt = recognise([*good, "completion", "label"], [odd, good, good])
    assert (fmt.name, fmt.conversational) == ("pairs", False)


def test_the_format_says_what_it_reads():
    row = {"prompt": "Q?", "chosen": "a", "rejected": "b", "source": "x", "__row__": 1}
    text = recognise(list(row), [row]).describe()
    assert text == "pairs (pairs, plain text); columns: prompt, chosen, rejected; not read: source"


def test_rows_name_their_own_place():
    row = {"text": "", "__row__": 12, "__file__": "part-2.jsonl"}
    with pytest.raises(DataError) as caught:
        normalise(row, recognise(["text"], [{"text": "x"}]), file="folder")
    assert (caught.value.file, caught.value.row) == ("part-2.jsonl", 12)


REAL = {
    "hh_harmless": ("HH transcripts", 1814, 3),
    "align_anything_style": ("align-anything", 531, 0),
    "alpaca_eval_ranked": ("ranked responses", 711, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(name: str, shared_dir, capsys):
    expected, total, dropped = REAL[name]
    loaded = load(shared_dir / "data" / f"{name}.jsonl.gz")
    assert loaded.fmt.name == expected
    assert len(loaded.rows) + len(loaded.dropped) == total
    assert len(loaded.dropped) == dropped
    assert all(isinstance(row, Dropped) and row.reason == "the response is empty" for row in loaded.dropped)
    for row in loaded.rows:
        assert row.prompt
        assert len(row.completions) >= 2
        if loaded.fmt.conversational:
            assert row.prompt[-1]["role"] == "user"
            assert all(turns[0]["role"] == turns[-1]["role"] == "assistant" for turns in row.completions)
    assert capsys.readouterr().out == ""


def test_real_ranked_data_converts(shared_dir):
    path = shared_dir / "data" / "alpaca_eval_ranked.jsonl.gz"
    loaded = load(path, convert="best_worst")
    assert len(loaded.rows) + len(loaded.dropped) == 711
    assert all(0 < row.margin <= 1 for row in loaded.rows)
