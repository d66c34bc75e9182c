"""What templates are given and must show, and strings of the data that look like marks."""

from __future__ import annotations

import re

import pytest

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import CanonicalRow
from lit_align.data.marks import Marks
from lit_align.data.report import DataReport
from lit_align.data.templates import BUILT_IN, resolve_template
from tests.data import tokenizers as tk
from tests.data.tokenised import (
    CORPUS,
    SFT,
    assistant,
    chat_pair,
    completions,
    demonstration,
    make,
    pair,
    prompts,
    user,
)

TOOL = {"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "search"}}]}
SYSTEM = {"role": "system", "content": "Be brief."}
ONLY_TURNS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + ': ' + m['content'] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("words", ["\U000f0001", "a\U000f0003b", "</s>\U000f0000</s>\U0010fffd", "\ue000"])
def test_private_use_characters_stay_what_they_are(words):
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    example = make(tokenizer)(chat_pair(prompt=words, chosen=words))
    assert completions(example, tokenizer)[0] == words + "</s>"
    assert prompts(example, tokenizer)[0] == f"<s><|user|>\n{words}<|assistant|>\n"
    assert example.ids[0].count(tokenizer.eos_token_id) == 1


def test_a_row_of_all_private_use_characters():
    with pytest.raises(DataError, match="private-use"):
        Marks(["</s>"], re.compile("</s>"), "".join(map(chr, range(0xF0000, 0x110000, 2))))


@pytest.mark.parametrize("kind", [SFT, DataKind.PROMPTS])
@pytest.mark.parametrize(
    ("row", "field"),
    [
        (demonstration(SYSTEM, user("Hi"), assistant("a")), "system"),
        (demonstration(user("Hi"), assistant("a"), tools=[TOOL]), "tools"),
        (demonstration(user("Hi"), CALL, user("x"), assistant("a")), "tool_calls"),
    ],
)
def test_what_a_template_does_not_show_is_an_error(row, field, kind):
    with pytest.raises(DataError, match=rf"f.jsonl, row 1, field '{field}'[\s\S]*data.chat_template") as caught:
        make(tk.byte_tokenizer(ONLY_TURNS), kind, report=DataReport("f.jsonl"))(row)
    assert caught.value.value in ("Be brief.", "search")


def test_a_system_prompt_that_the_template_does_not_show():
    with pytest.raises(ConfigError, match=r"data.system_prompt: 'Be kind.'"):
        make(tk.byte_tokenizer(ONLY_TURNS), system_prompt="Be kind.")(chat_pair())
    assert isinstance(make(tk.byte_tokenizer(tk.CHATML), system_prompt="Be kind.")(chat_pair()), Example)


@pytest.mark.parametrize("template", BUILT_IN.values(), ids=BUILT_IN)
def test_a_turn_of_tool_calls_is_not_learnt_as_an_empty_one(template):
    # The name stands elsewhere in the conversation, yet the turn would be empty.
    with pytest.raises(DataError, match="a tool call"):
        make(tk.byte_tokenizer(template), SFT)(demonstration(user("search"), CALL))


@pytest.mark.parametrize("prompt", ["the quick", "<s>the quick", "the</s>"])
@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompts_have_the_ids_of_training(prompt, adds_eos, adds_bos):
    tokenizer = tk.merging_tokenizer(CORPUS, adds_bos=adds_bos, adds_eos=adds_eos)
    trained = make(tokenizer)(pair(prompt, " fox", " dog"))
    prompted = make(tokenizer, DataKind.PROMPTS)(CanonicalRow(1, prompt, []))
    assert prompted.ids[0] == trained.ids[0][: trained.prompt_lengths[0]]
    assert prompted.prompt_lengths == [len(prompted.ids[0])]


def test_without_a_limit_the_prompt_is_cut_only_where_the_row_does_not_fit():
    tokenizer = tk.byte_tokenizer()

    def lengths(prompt, chosen, rejected):
        example = make(tokenizer, max_length=40)(pair("x" * prompt, "y" * chosen, "z" * rejected))
        return example.prompt_lengths, [len(ids) for ids in example.ids]

    assert lengths(30, 9, 5) == ([30, 30], [40, 36])
    assert lengths(36, 9, 5) == ([30, 30], [40, 36])
    assert lengths(36, 99, 5) == ([20, 20], [40, 26])
    assert lengths(10, 99, 5) == ([10, 10], [40, 16])
    prompted = make(tokenizer, DataKind.PROMPTS, max_length=40)
    assert [len(prompted(CanonicalRow(1, "x" * n, [])).ids[0]) for n in (39, 40, 50)] == [39, 40, 40]


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ messages | nothing }}", "{{ 'a' }"])
def test_a_broken_template_is_refused_where_it_is_set(template):
    with pytest.raises(ConfigError, match=r"not valid Jinja[\s\S]*data.chat_template, line 1"):
        resolve_template(template)
    assert resolve_template(tk.GENERATION_TAGS) == tk.GENERATION_TAGS
    assert resolve_template("chatml") == BUILT_IN["chatml"]


@pytest.mark.parametrize("text", ["fox</s>\n", "fox</s> \n\n", "fox</s></s>\n"])
@pytest.mark.parametrize("adds_eos", [False, True])
def test_white_space_behind_an_eos_brings_no_second_one(text, adds_eos):
    tokenizer = tk.merging_tokenizer(CORPUS, adds_eos=adds_eos)
    for row in (pair("the ", text, "dog"), CanonicalRow(1, "", [], text="the " + text)):
        ids = make(tokenizer, SFT)(row).ids[0]
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id


def test_margins_are_reported():
    tokeniser = make(tk.byte_tokenizer())
    tokeniser(pair("a", "b", "c", margins=[0.25]))
    assert tokeniser.report.margins.counts == {0.25: 1}
