"""The pains that users of other libraries report about tokenisation, each as a test of its name."""

from __future__ import annotations

import pytest

from lit_align.core.batch import Example
from lit_align.data.canonical import CanonicalRow, Dropped
from lit_align.data.outcome import NOTHING_TO_SCORE
from lit_align.data.tokenise import pad_id
from tests.data import tokenizers as tk
from tests.data.reading import assistant, user
from tests.data.tokenised import CORPUS, SFT, chat_pair, completions, make, pair, prompts, total


def test_pain_1_boundary_by_offsets_of_one_encoding():
    tokenizer = tk.merging_tokenizer(CORPUS)
    tokeniser = make(tokenizer)
    example = tokeniser(pair("the quick bro", "wn fox", "ken dog"))
    for ids, completion in zip(example.ids, ("wn fox", "ken dog"), strict=True):
        assert ids[:-1] == tokenizer("the quick bro" + completion).input_ids
    # "brown" is one token: it belongs to the completion, and the mismatch is counted.
    assert completions(example, tokenizer)[0] == " brown fox</s>"
    assert tokeniser.report.events["boundary_mismatches"].rows == [1]


def test_pain_1_tokens_that_change_before_the_boundary_are_counted():
    tokenizer = tk.merging_tokenizer(CORPUS)
    assert tokenizer("hello  ").input_ids != tokenizer("hello  world").input_ids[: len(tokenizer("hello  ").input_ids)]
    tokeniser = make(tokenizer)
    tokeniser(pair("hello  ", "world", "fox"))
    assert total(tokeniser, "boundary_mismatches") == 1


def test_pain_1_no_mismatch_where_tokens_agree():
    tokenizer = tk.merging_tokenizer(CORPUS)
    tokeniser = make(tokenizer)
    example = tokeniser(pair("the quick", " brown", " lazy"))
    assert example.ids[0][: example.prompt_lengths[0]] == tokenizer("the quick").input_ids
    assert total(tokeniser, "boundary_mismatches") == 0


def test_pain_1_a_character_of_several_tokens_at_the_boundary():
    tokenizer = tk.byte_tokenizer()
    example = make(tokenizer)(pair("hé🙂", "🙂é", "x"))
    assert prompts(example, tokenizer)[0] == "hé🙂"
    assert completions(example, tokenizer)[0] == "🙂é</s>"


@pytest.mark.parametrize("template", [tk.WITH_BOS, tk.CHATML, tk.LLAMA_2, tk.GEMMA, tk.NO_EOS])
def test_pain_2_exactly_one_eos_at_the_end(template):
    tokenizer = tk.byte_tokenizer(template)
    for ids in make(tokenizer)(chat_pair()).ids:
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(("adds_eos", "text"), [(True, "fox"), (False, "fox"), (True, "fox</s>"), (False, "fox</s>")])
def test_pain_2_one_eos_whatever_the_tokenizer_and_the_text_bring(adds_eos, text):
    tokenizer = tk.merging_tokenizer(CORPUS, adds_eos=adds_eos)
    example = make(tokenizer)(pair("the ", text, "dog"))
    assert completions(example, tokenizer)[0].endswith("fox</s>")
    assert example.ids[0].count(tokenizer.eos_token_id) == 1


def test_pain_3_no_second_bos():
    template_and_post_processor = tk.merging_tokenizer(CORPUS, adds_bos=True)
    template_and_post_processor.chat_template = tk.WITH_BOS
    example = make(template_and_post_processor)(chat_pair())
    assert example.ids[0].count(template_and_post_processor.bos_token_id) == 1

    tokeniser = make(tk.merging_tokenizer(CORPUS, adds_bos=True))
    example = tokeniser(pair("<s>the", " fox", " dog"))
    assert prompts(example, tokeniser.tokenizer)[0] == "<s>the"
    assert example.ids[0].count(tokeniser.tokenizer.bos_token_id) == 1
    assert total(tokeniser, "double_bos") == 1
    assert total(tokeniser, "boundary_mismatches") == 0


def test_pain_4_the_template_sees_the_whole_conversation():
    tokenizer = tk.byte_tokenizer(tk.DEFAULT_SYSTEM, eos="<|im_end|>")
    row = pair([user("a"), assistant("b"), user("c")], [assistant("d")], [assistant("e")])
    example = make(tokenizer)(row)
    whole = tokenizer.apply_chat_template([*row.prompt, assistant("d")], tokenize=False)
    assert tokenizer.decode(example.ids[0]) + "\n" == whole
    assert whole.count("You are helpful.") == 1


def test_pain_5_a_generation_prompt_that_training_does_not_have_is_counted():
    tokenizer = tk.byte_tokenizer(tk.THINKING_PROMPT, eos="<|im_end|>")
    tokeniser = make(tokenizer)
    example = tokeniser(chat_pair())
    assert completions(example, tokenizer)[0] == "Yes.<|im_end|>"
    assert total(tokeniser, "boundary_mismatches") == 1


def test_pain_6_pad_may_be_eos():
    same = tk.byte_tokenizer(tk.WITH_BOS, pad="</s>")
    apart = tk.byte_tokenizer(tk.WITH_BOS)
    assert make(same)(chat_pair()) == make(apart)(chat_pair())
    assert pad_id(tk.byte_tokenizer(tk.WITH_BOS, pad=None)) == same.eos_token_id


def test_pain_7_nothing_of_the_prompt_is_learnt_and_all_of_the_completion_is():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    row = pair([user("a"), assistant("b"), user("c")], [assistant("d")], [assistant("e")])
    example = make(tokenizer)(row)
    assert completions(example, tokenizer) == ["d</s>", "e</s>"]
    assert example.ids[0][: example.prompt_lengths[0]] == example.ids[1][: example.prompt_lengths[1]]


def test_pain_8_truncation_never_leaves_a_row_without_scored_tokens():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    tokeniser = make(tokenizer, max_length=40, max_prompt_length=30)
    example = tokeniser(chat_pair(prompt="x" * 200, chosen="y" * 200))
    assert [len(ids) for ids in example.ids] == [40, 34]
    assert example.prompt_lengths == [30, 30]
    assert completions(example, tokenizer) == ["y" * 10, "No.</s>"]
    assert prompts(example, tokenizer)[0] == "<s>" + "x" * 15 + "<|assistant|>\n"
    assert [total(tokeniser, name) for name in ("truncated", "prompt_truncated", "eos_lost")] == [1, 1, 1]


def test_pain_8_a_masked_conversation_that_loses_its_turns_is_dropped():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    # The completion begins with the last user's turn: only the assistant's turn after it is learnt.
    row = CanonicalRow(4, [user("a")], [[assistant("b" * 50)]])
    tokeniser = make(tokenizer, SFT, max_length=60, max_prompt_length=30)
    assert isinstance(tokeniser(row), Example)
    tokeniser = make(tk.byte_tokenizer(), SFT, max_length=60)
    assert tokeniser(CanonicalRow(4, "", [], text="")) == Dropped(4, NOTHING_TO_SCORE)
    assert tokeniser.report.dropped[NOTHING_TO_SCORE].rows == [4]
