"""Solutions in labelled steps: reading, labelling, tokens, batches, and plain responses that are scored by steps."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_align.core.batch import DataKind, Layout
from lit_align.core.demand import StepLabelling
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import NO_STEP_LABEL
from lit_align.data.collate import Collator, Drawn
from lit_align.data.steps import join_steps, settle_labels, split_steps
from tests.data import tokenizers as tk
from tests.data.modules import QUIET, Method, fit, trainer, write
from tests.data.reading import assistant, user

pytestmark = QUIET

STEPS = DataKind.STEPS
ROW = {"prompt": "2+3*4?", "completions": ["3*4=12", "2+12=15"], "labels": [True, False]}


class Stepwise(Method):
    """Learns from steps as a test says."""

    def __init__(self, **labelling):
        super().__init__(STEPS)
        self.step_labelling = StepLabelling(**labelling)


def read(tmp_path, make, rows, kind=STEPS, method=None, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    data.sets.method = method
    return data, data.examples("train", kind)


def shown(data, example, number=0):
    """The text, with the label (or *) behind each token that is scored."""
    ids, start = example.ids[number], example.prompt_lengths[number]
    mask = [1] * (len(ids) - start) if example.masks is None else example.masks[number]
    assert len(mask) == len(ids) - start
    labels = iter(example.step_labels) if example.step_labels is not None else None
    text = data.tokenizer.decode(ids[:start]) + "|"
    for token, on in zip(ids[start:], mask, strict=True):
        text += data.tokenizer.decode([token])
        text += f"<{'*' if labels is None else format(next(labels), 'g')}>" if on else ""
    assert labels is None or next(labels, None) is None
    return text


def refused(tmp_path, make, rows, **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, rows, **settings)
    assert caught.value.fix
    return caught.value


def test_tokens_of_the_specification(shared_dir):
    vectors = json.loads((shared_dir / "vectors/onpolicy.json").read_text())
    [vector] = [vector for vector in vectors if vector["id"] == "prm_step"]
    given, expected = vector["inputs"]["tokenize_example"], vector["expected"]
    prompt = [vector["hyperparameters"]["bos_id"], *given["prompt_ids"]]
    for last_only, labels in ((False, "tokenize_expected"), (True, "train_only_last_step_labels")):
        wanted = expected[labels]["labels"] if isinstance(expected[labels], dict) else expected[labels]
        settled = settle_labels(list(map(float, given["step_labels"])), StepLabelling(last_only=last_only))
        response = join_steps(prompt, given["steps_ids"], given["separator_ids"], [x is not None for x in settled])
        assert response.ids == expected["tokenize_expected"]["input_ids"]
        found = iter([x for x in settled if x is not None])
        marks = [next(found) if on else -100 for on in response.mask]
        assert [-100] * response.prompt + marks == wanted


@pytest.mark.parametrize(
    ("labels", "labelling", "settled"),
    [
        ([1.0, 0.0, 1.0], {}, [1.0, 0.0, 1.0]),
        ([1.0, 0.0, 1.0], {"last_only": True}, [None, None, 1.0]),
        ([1.0, 0.0, 1.0, 0.0], {"until_first_error": True}, [1.0, 0.0, None, None]),
        ([0.75, 0.25, 1.0], {"until_first_error": True}, [0.75, 0.25, 1.0]),
        ([0.75, 0.0, 1.0], {"until_first_error": True, "last_only": True}, [None, None, 1.0]),
        ([1.0, "neutral", None], {}, [1.0, 1.0, None]),
        ([1.0, "neutral", 0.0], {"neutral": "ignore"}, [1.0, None, 0.0]),
        ([1.0, "neutral", 1.0], {"neutral": "negative", "until_first_error": True}, [1.0, 0.0, None]),
    ],
)
def test_labels_are_settled(labels, labelling, settled):
    assert settle_labels(labels, StepLabelling(**labelling)) == settled


def test_the_last_token_of_each_separator_is_scored(tmp_path, make):
    data, [example] = read(tmp_path, make, [ROW])
    assert shown(data, example) == "2+3*4?|3*4=12\n<1>2+12=15\n<0>"
    data, [example] = read(tmp_path, make, [ROW], step_separator=" ##\n")
    assert shown(data, example) == "2+3*4?|3*4=12 ##\n<1>2+12=15 ##\n<0>"


def test_a_separator_may_be_a_special_token_and_steps_hold_none(tmp_path, make):
    rows = [{**ROW, "completions": ["a</s>b", "c"]}]
    data, [example] = read(tmp_path, make, rows, step_separator="<end_of_turn>")
    specials = [token for token in example.ids[0] if token < len(tk.SPECIAL)]
    assert specials == [tk.SPECIAL.index("<end_of_turn>")] * 2
    assert shown(data, example) == "2+3*4?|a</s>b<end_of_turn><1>c<end_of_turn><0>"


def test_a_separator_does_not_merge_with_the_next_step(tmp_path, make):
    """Encoded in one go, the space and what follows would be one token."""
    data = make(write(tmp_path / "rows.jsonl", [{**ROW, "completions": ["the", "fox"]}]), step_separator=" ")
    data.sets.tokenizer = tk.merging_tokenizer(["the fox the fox"] * 50)
    assert len(data.tokenizer("the fox", add_special_tokens=False)["input_ids"]) == 2
    [example] = data.examples("train", STEPS)
    assert shown(data, example) == "2+3*4?|the <1>fox <0>"


def test_prompts_may_be_conversations(tmp_path, make):
    talk = [user("Hi"), assistant("Yo"), user("2+3*4?")]
    data, [example] = read(tmp_path, make, [{**ROW, "prompt": talk}])
    assert shown(data, example).endswith("2+3*4?<|assistant|>\n|3*4=12\n<1>2+12=15\n<0>")
    data, [example] = read(tmp_path, make, [ROW], as_chat=True)
    assert shown(data, example).endswith("<|user|>\n2+3*4?<|assistant|>\n|3*4=12\n<1>2+12=15\n<0>")


@pytest.mark.parametrize(
    ("labels", "read_as"),
    [
        ([1, 0], "<1>2+12=15\n<0>"),
        ([0.25, None], "<0.25>2+12=15\n"),
        ([True, 0.5], "<1>2+12=15\n<0.5>"),
        (["1", "0.0"], "<1>2+12=15\n<0>"),
        ([-1, 0], "<0>2+12=15\n<1>"),
        ([0, -1], "<1>2+12=15\n<0>"),
    ],
)
def test_labels_that_can_be_read(tmp_path, make, labels, read_as):
    """One -1 among the first rows says that 0 is neither right nor wrong."""
    data, [example] = read(tmp_path, make, [{"prompt": "Q?", "steps": ROW["completions"], "labels": labels}])
    assert shown(data, example) == f"Q?|3*4=12\n{read_as}"


def test_one_row_tells_the_scale_of_all(tmp_path, make):
    rows = [{**ROW, "labels": [1, 0]}, {**ROW, "labels": [1, -1]}]
    data, examples = read(tmp_path, make, rows)
    assert [example.step_labels for example in examples] == [[1.0, 1.0], [1.0, 0.0]]
    assert "PRM800K" in data.reports["train"].format
    _, [first, _] = read(tmp_path, make, rows, method=Stepwise(neutral="ignore"))
    assert first.step_labels == [1.0]
    error = refused(tmp_path, make, rows, format="labelled steps")
    assert (error.row, error.field, error.value) == (2, "labels[1]", -1)
    assert "PRM800K" in error.fix


def test_false_is_wrong_whatever_stands_beside_it(tmp_path, make):
    """One -1 among true and false does not make false mean that a step is neither right nor wrong."""
    rows = [{**ROW, "labels": [True, False]}, {**ROW, "labels": [True, -1]}]
    error = refused(tmp_path, make, rows)
    assert (error.row, error.field, error.value) == (2, "labels[1]", -1)
    error = refused(tmp_path, make, rows, format="PRM800K")
    assert (error.row, error.field, error.value) == (1, "labels[0]", True)
    assert "labelled steps" in error.fix


def test_a_named_format_settles_what_the_first_rows_leave_open(tmp_path, make):
    rows = [{**ROW, "prompt": f"{n}?", "labels": [1, 0 if n < 40 else -1]} for n in range(41)]
    error = refused(tmp_path, make, rows)
    assert (error.row, error.value, "set data.format: PRM800K" in error.fix) == (41, -1, True)
    _, examples = read(tmp_path, make, rows, format="PRM800K", method=Stepwise(neutral="ignore"))
    assert [example.step_labels for example in examples] == [[1.0]] * 40 + [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("labels", "note"),
    [([True, True], "label 1:"), ([0, 0], "label 0:"), ([None, 0.5], "label 0.5:"), ([0.9, 0.6], "")],
)
def test_steps_of_one_label_are_reported(tmp_path, make, labels, note):
    data, _ = read(tmp_path, make, [{**ROW, "labels": labels}])
    notes = [text for text in data.reports["train"].notes if "nothing can be told apart" in text]
    assert len(notes) == bool(note)
    assert note in "".join(notes)


@pytest.mark.parametrize(
    ("broken", "field", "what"),
    [
        ({"labels": [True]}, "labels", "2 steps have 1 labels"),
        ({"labels": [1, 2]}, "labels[1]", "out of range"),
        ({"labels": [1, "right"]}, "labels[1]", "expected a number"),
        ({"labels": [1, [0]]}, "labels[1]", "expected a number"),
        ({"labels": "yes"}, "labels", "expected a list"),
        ({"completions": ["a", " "]}, "completions[1]", "empty"),
        ({"completions": ["a", 3]}, "completions[1]", "expected a text"),
        ({"completions": [], "labels": []}, "completions", "empty"),
        ({"labels": None}, "labels", "null"),
    ],
)
def test_broken_rows_are_named(tmp_path, make, broken, field, what):
    error = refused(tmp_path, make, [ROW, {**ROW, **broken}])
    assert (error.row, error.field) == (2, field)
    assert what in error.what
    data, examples = read(tmp_path, make, [ROW, {**ROW, **broken}], on_bad_row="drop")
    assert [example.row for example in examples] == [1]
    assert [tally.rows for tally in data.reports["train"].dropped.values()] == [[2]]


def test_rows_without_a_label_are_dropped_and_counted(tmp_path, make):
    rows = [ROW, {**ROW, "labels": [None, None]}, {**ROW, "labels": [True, None]}]
    data, examples = read(tmp_path, make, rows)
    assert [example.row for example in examples] == [1, 3]
    assert data.reports["train"].dropped[NO_STEP_LABEL].rows == [2]
    data, examples = read(tmp_path, make, rows, method=Stepwise(last_only=True))
    assert [example.row for example in examples] == [1]
    assert data.reports["train"].dropped[NO_STEP_LABEL].rows == [2, 3]
    assert refused(tmp_path, make, rows, on_no_preference="error").row == 2


def test_steps_are_counted(tmp_path, make):
    rows = [{**ROW, "completions": ["a", "b", "c"], "labels": [1, 0, None]}, ROW]
    data, _ = read(tmp_path, make, rows)
    text = data.reports["train"].to_text()
    assert "\n  steps: 2 right, 2 wrong, 1 not learnt" in text
    assert "completion tokens (min / 25 % / median / 75 % / 95 % / max): 6 / " in text


def test_methods_with_other_labelling_have_other_examples(tmp_path, make):
    """They share the cache, and must not find each other's."""
    rows = [{**ROW, "completions": ["a", "b", "c"], "labels": [1, 0, 1]}]
    for labelling, wanted in (({}, [1, 0, 1]), ({"until_first_error": True}, [1, 0]), ({"last_only": True}, [1])):
        _, [example] = read(tmp_path, make, rows, method=Stepwise(**labelling))
        assert example.step_labels == wanted


def test_a_cut_keeps_whole_steps_and_their_labels(tmp_path, make):
    rows = [{"prompt": "Q?", "completions": ["aaaa", "bbbb", "cccc"], "labels": [0.5, 0.25, 1]}]
    for length, wanted in ((17, "aaaa\n<0.5>bbbb\n<0.25>cccc\n<1>"), (16, "aaaa\n<0.5>bbbb\n<0.25>"),
                           (12, "aaaa\n<0.5>bbbb\n<0.25>"), (8, "aaaa\n<0.5>")):  # fmt: skip
        data, [example] = read(tmp_path, make, rows, max_length=length)
        assert shown(data, example) == f"Q?|{wanted}"
        assert data.reports["train"].events["eos_lost"].total == (length < 17)
    assert "no row is left" in refused(tmp_path, make, rows, max_length=6).what
    assert "longer than the limits" in refused(tmp_path, make, rows, max_length=16, on_overlong="error").what
    long_prompt = [{**rows[0], "prompt": "0123456789" * 2}]
    data, [example] = read(tmp_path, make, long_prompt, max_length=30)
    assert shown(data, example) == "567890123456789|aaaa\n<0.5>bbbb\n<0.25>cccc\n<1>"


def test_an_empty_separator_is_refused(tmp_path, make):
    with pytest.raises(ConfigError, match=r"data\.step_separator"):
        read(tmp_path, make, [ROW], step_separator="")


@pytest.mark.parametrize("layout", list(Layout))
def test_batches_hold_labels_beside_scored_tokens(tmp_path, make, layout):
    rows = [ROW, {"prompt": "Q?", "completions": ["x"], "labels": [0.5]}]
    data, examples = read(tmp_path, make, rows)
    batch = Collator(STEPS, layout)(Drawn(list(examples)))
    assert batch.labels.tolist() == [1.0, 0.0, 0.5]
    assert batch.labels.dtype == torch.float64
    newline = data.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    assert batch.rows.target.tolist() == [newline] * 3
    assert batch.rows.input_ids.flatten()[batch.rows.token_index].tolist() == [newline] * 3
    assert batch.source_rows.tolist() == [1, 2]
    assert batch.counts()[:2] == (2, 3)


@pytest.mark.parametrize("streaming", [False, True])
def test_windows_count_labelled_steps(tmp_path, make, streaming):
    rows = [{"prompt": f"Q{n}?", "completions": ["a"] * (1 + n % 3), "labels": [1] * (1 + n % 3)} for n in range(9)]
    path = write(tmp_path / "rows.jsonl", rows)
    method = fit(tmp_path, make(path, batch_size=2, streaming=streaming), Stepwise(), accumulate_grad_batches=2)
    for first in range(0, len(method.seen), 2):
        window = method.seen[first : first + 2]
        numbers = [row - 1 for seen in window for row in seen[2]]
        assert all(seen[3][:2] == (len(numbers), sum(1 + n % 3 for n in numbers)) for seen in window)


# ---------------------------------------------------------------- to be scored


def test_plain_responses_are_split_for_a_method_of_steps(tmp_path, make):
    rows = [{"prompt": "Q?", "chosen": "a\nbb\n\nc", "rejected": "one"}]
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES, Stepwise())
    assert example.step_labels is None
    assert [shown(data, example, number) for number in (0, 1)] == ["Q?|a\n<*>bb\n<*>c\n<*>", "Q?|one\n<*>"]
    assert example.pairs == [(0, 1)]
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES, Stepwise(last_only=True))
    assert shown(data, example) == "Q?|a\nbb\nc\n<*>"
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES)
    assert example.masks is None


def test_conversations_are_split_in_their_last_turn(tmp_path, make):
    rows = [{"prompt": [user("Hi")], "chosen": [assistant("a\nb"), user("And?"), assistant("c\nd")],
             "rejected": [assistant("e")]}]  # fmt: skip
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES, Stepwise())
    assert shown(data, example, 0).endswith("And?<|assistant|>\n|c\n<*>d\n<*>")
    assert shown(data, example, 1).endswith("Hi<|assistant|>\n|e\n<*>")
    talk = [{"messages": [user("Hi"), assistant("a\nb")]}]
    data, [example] = read(tmp_path, make, talk, DataKind.RESPONSES, Stepwise())
    assert shown(data, example).endswith("Hi<|assistant|>\n|a\n<*>b\n<*>")
    data, [example] = read(tmp_path, make, [{"text": "a\nb"}], DataKind.RESPONSES, Stepwise())
    assert shown(data, example) == "a|\n<*>b\n<*>"


def test_labelled_steps_are_scored_as_they_are(tmp_path, make):
    rows = [{**ROW, "completions": ["a\na", "b", "c"], "labels": [0.5, None, 0]}]
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES, Stepwise(until_first_error=True))
    assert [math.isnan(label) for label in example.step_labels] == [False, True, False]
    assert shown(data, example) == "2+3*4?|a\na\n<0.5>b\n<nan>c\n<0>"
    data, [example] = read(tmp_path, make, rows, DataKind.RESPONSES, step_separator=";")
    assert (example.masks, example.step_labels) == (None, None)
    assert data.tokenizer.decode(example.ids[0]) == "2+3*4?a\na;b;c</s>"


def test_scoring_reads_the_marked_places(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Q?", "completion": "a\nb"}, {"prompt": "Q?", "completion": "c"}])
    data = make(predict=path)
    data.predict_kind = DataKind.RESPONSES
    method = Stepwise()
    trainer(tmp_path).predict(method, data)
    [batch] = method.predicted
    assert sorted(batch.rows.response_lengths.tolist()) == [1, 2]


def test_texts_are_split():
    assert split_steps("a\n\n b\n", "\n") == ["a", " b"]
    assert split_steps("a", "\n") == ["a"]
    assert split_steps(" \n ", "\n") == []
