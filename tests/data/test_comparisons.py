"""Pairs as texts that hold both responses: rendering, tokens, limits on length, batches."""

from __future__ import annotations

import pytest

from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.collate import Collator, Drawn
from lit_align.data.comparison import render_comparison
from lit_align.data.tokenise import OVERLONG
from tests.data import tokenizers as tk
from tests.data.modules import QUIET, Method, fit, trainer, write
from tests.data.reading import assistant, system, user

pytestmark = QUIET

COMPARISONS = DataKind.COMPARISONS
ROW = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}


def read(tmp_path, make, rows, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    return data, data.examples("train", COMPARISONS)


def texts(data, example):
    return [data.tokenizer.decode(ids) for ids in example.ids]


def test_rendering():
    assert render_comparison("Q?", "yes", "no") == "[CONTEXT]\nQ?\n\n[RESPONSE A]\nyes\n\n[RESPONSE B]\nno"
    talk = [system("Be brief."), user("Hi"), assistant("Yo"), user("Q?")]
    text = render_comparison(talk, [assistant("yes")], [assistant("hm"), user("So?"), assistant("no")])
    assert text == (
        "[CONTEXT]\nsystem: Be brief.\nuser: Hi\nassistant: Yo\nuser: Q?\n\n[RESPONSE A]\nyes\n\n"
        "[RESPONSE B]\nassistant: hm\nuser: So?\nassistant: no"
    )
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    assert '[RESPONSE A]\n[{"function": {"name": "add"}}]' in render_comparison("Q?", [call], "no")


def test_each_pair_is_two_texts_that_end(tmp_path, make):
    data, [example] = read(tmp_path, make, [ROW])
    chosen_first = render_comparison("Q?", "yes", "no") + "</s>"
    assert texts(data, example) == [chosen_first, render_comparison("Q?", "no", "yes") + "</s>"]
    assert data.tokenizer.decode(example.ids[0][: example.prompt_lengths[0]]) == "[CONTEXT]\nQ?"
    assert (example.scores, example.reference_logps, example.masks) == (None, None, None)


def test_conversations_and_system_prompts(tmp_path, make):
    rows = [{"prompt": [user("Hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}]
    data, [example] = read(tmp_path, make, rows, system_prompt="Be kind.")
    assert texts(data, example)[0].startswith("[CONTEXT]\nsystem: Be kind.\nuser: Hi\n\n[RESPONSE A]\na\n\n")
    data, [example] = read(tmp_path, make, [ROW], system_prompt="Be kind.", as_chat=True)
    assert texts(data, example)[0].startswith("[CONTEXT]\nsystem: Be kind.\nuser: Q?\n\n")
    with pytest.raises(ConfigError, match="system prompt"):
        read(tmp_path, make, [ROW], system_prompt="Be kind.")
    tools = [{"type": "function", "function": {"name": "add"}}]
    data, [example] = read(tmp_path, make, [{**rows[0], "tools": tools}])
    assert '"name": "add"' in texts(data, example)[0]


def test_special_strings_stay_words_and_bos_stands_once(tmp_path, make):
    data = make(write(tmp_path / "rows.jsonl", [{**ROW, "chosen": "yes</s> <|im_end|>"}]))
    data.sets.tokenizer = tk.merging_tokenizer(tk.SPECIAL, adds_bos=True, adds_eos=True)
    [example] = data.examples("train", COMPARISONS)
    for ids in example.ids:
        assert [token for token in ids if token < len(tk.SPECIAL)] == [1, 2]
        assert (ids[0], ids[-1]) == (1, 2)
    assert data.reports["train"].events["special_strings"].rows == [1]
    assert data.reports["train"].events["boundary_mismatches"].total == 0


def test_the_context_is_cut_and_never_the_responses(tmp_path, make):
    rows = [{**ROW, "prompt": "0123456789" * 4}]
    whole = len(render_comparison(rows[0]["prompt"], "yes", "no")) + 1
    data, [example] = read(tmp_path, make, rows, max_length=whole)
    assert data.reports["train"].events["truncated"].total == 0
    data, [example] = read(tmp_path, make, rows, max_length=whole - 20)
    assert [len(ids) for ids in example.ids] == [whole - 20] * 2
    assert texts(data, example)[0].endswith("56789\n\n[RESPONSE A]\nyes\n\n[RESPONSE B]\nno</s>")
    assert data.reports["train"].events["prompt_truncated"].rows == [1]
    data, [example] = read(tmp_path, make, rows, max_prompt_length=3)
    assert texts(data, example)[0].startswith("789\n\n[RESPONSE A]")
    with pytest.raises(DataError, match="longer than the limits"):
        read(tmp_path, make, rows, max_length=whole - 20, on_overlong="error")
    data, examples = read(tmp_path, make, [*rows, ROW], max_length=whole - 20, on_overlong="drop")
    assert [example.row for example in examples] == [2]


def test_pairs_whose_responses_do_not_fit_are_dropped(tmp_path, make):
    data, examples = read(tmp_path, make, [ROW, {**ROW, "chosen": "yes " * 20}], max_length=60)
    assert [example.row for example in examples] == [1]
    assert data.reports["train"].dropped[OVERLONG].rows == [2]


def test_all_pairs_of_a_list_are_compared(tmp_path, make):
    rows = [{"prompt": "Q?", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}]
    with pytest.raises(ConfigError, match="learns from comparisons") as caught:
        read(tmp_path, make, rows)
    assert "all_pairs" in caught.value.fix
    data, examples = read(tmp_path, make, rows, convert="all_pairs")
    found = [texts(data, example)[0] for example in examples]
    assert found == [render_comparison("Q?", *pair) + "</s>" for pair in (("b", "c"), ("b", "a"), ("c", "a"))]
    assert [example.margins for example in examples] == [[1.0], [2.0], [1.0]]
    assert [example.row for example in examples] == [1, 1, 1]


def test_a_prompt_stays_on_one_side_of_a_split(tmp_path, make):
    rows = [{"prompt": f"Q{n}?", "responses": ["a", "b", "c"], "scores": [1, 3, 2]} for n in range(6)]
    path = write(tmp_path / "rows.jsonl", rows)
    data = make(path, convert="all_pairs", val_split=3)
    sides = [{example.row for example in data.examples(split, COMPARISONS)} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 1


@pytest.mark.parametrize("layout", list(Layout))
def test_batches_know_both_orders(tmp_path, make, layout):
    _, examples = read(tmp_path, make, [ROW, {**ROW, "prompt": "Why?"}])
    batch = Collator(COMPARISONS, layout)(Drawn(list(examples)))
    assert (batch.first.tolist(), batch.second.tolist()) == ([0, 2], [1, 3])
    assert batch.rows.input_ids.flatten()[batch.rows.last_index].tolist() == [2] * 4
    assert batch.source_rows.tolist() == [1, 2]
    length = len(render_comparison("", "yes", "no")) - len("[CONTEXT]\n") + 1
    assert batch.counts()[:2] == (2, 2 * length)


@pytest.mark.parametrize("streaming", [False, True])
def test_comparisons_reach_the_trainer(tmp_path, make, streaming):
    rows = [{**ROW, "prompt": f"Q{n}?"} for n in range(9)]
    path = write(tmp_path / "rows.jsonl", rows)
    method = fit(tmp_path, make(path, batch_size=2, streaming=streaming), Method(COMPARISONS))
    assert sorted(row for seen in method.seen for row in seen[2]) == list(range(1, 10))
    trainer(tmp_path).validate(method, make(validation=path), verbose=False)
    assert sum(len(batch.first) for batch in method.validated) == 9
