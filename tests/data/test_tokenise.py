"""Golden masks, and the pains that others' users report about tokenisation, each as a test of its name."""

from __future__ import annotations

import pytest

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import CanonicalRow, Dropped
from lit_align.data.render import Renderer
from lit_align.data.tokenise import (
    IDENTICAL_TOKENS,
    NOTHING_TO_SCORE,
    OVERLONG,
    Tokeniser,
    check_tokenizer,
    pad_id,
)
from tests.data import tokenizers as tk

PAIRS, SFT = DataKind.PAIRS, DataKind.DEMONSTRATIONS


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(prompt, chosen, rejected, row=1, **more):
    return CanonicalRow(row, prompt, [chosen, rejected], pairs=[(0, 1)], **more)


def chat_pair(prompt="Hi", chosen="Yes.", rejected="No.", **more):
    return pair([user(prompt)], [assistant(chosen)], [assistant(rejected)], **more)


def demonstration(*messages, **more):
    return CanonicalRow(1, "", [], messages=list(messages), **more)


def make(tokenizer, kind=PAIRS, **settings):
    names = ("system_prompt", "chat_template_kwargs", "train_on", "as_chat", "separator")
    rendering = {name: settings.pop(name) for name in names if name in settings}
    renderer = Renderer(tokenizer, chat_template=tokenizer.chat_template, **rendering)
    return Tokeniser(tokenizer, kind, renderer=renderer, **{"max_length": 500, **settings})


def completions(example: Example, tokenizer) -> list[str]:
    return [tokenizer.decode(ids[n:]) for ids, n in zip(example.ids, example.prompt_lengths, strict=True)]


def prompts(example: Example, tokenizer) -> list[str]:
    return [tokenizer.decode(ids[:n]) for ids, n in zip(example.ids, example.prompt_lengths, strict=True)]


def scored(example: Example, tokenizer) -> str:
    """What is learnt of the first response; masked stretches as |."""
    ids, start = example.ids[0], example.prompt_lengths[0]
    mask = [1] * (len(ids) - start) if example.masks is None else example.masks[0]
    assert len(mask) == len(ids) - start
    pieces, run = [], []
    for token, on in zip(ids[start:], mask, strict=True):
        if on:
            run.append(token)
        elif run:
            pieces.append(tokenizer.decode(run))
            run = []
    return "|".join([*pieces, tokenizer.decode(run)] if run else pieces)


def total(tokeniser, event):
    return tokeniser.report.events[event].total


# ---------------------------------------------------------------- golden masks per template


@pytest.mark.parametrize(
    ("template", "eos", "prompt", "completion"),
    [
        (tk.WITH_BOS, "</s>", "<s><|user|>\nHi<|assistant|>\n", "Yes.</s>"),
        (tk.CHATML, "<|im_end|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Yes.<|im_end|>"),
        (tk.CHATML, "</s>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Yes.<|im_end|></s>"),
        (
            tk.DEFAULT_SYSTEM,
            "<|im_end|>",
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "Yes.<|im_end|>",
        ),
        (tk.LLAMA_2, "</s>", "<s>[INST] Hi [/INST]", " Yes. </s>"),
        (tk.GENERATION_TAGS, "</s>", "<s><|user|>\nHi\n<|assistant|>\n", "Yes.</s>"),
        (
            tk.GEMMA,
            "</s>",
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>assistant\n",
            "Yes.<end_of_turn></s>",
        ),
        (tk.NO_EOS, "</s>", "user: Hi\nassistant: ", "Yes.</s>"),
    ],
    ids=["bos", "chatml", "chatml-other-eos", "default-system", "llama-2", "generation-tags", "gemma", "no-eos"],
)
def test_golden_prompt_and_completion(template, eos, prompt, completion):
    tokenizer = tk.byte_tokenizer(template, eos=eos)
    tokeniser = make(tokenizer)
    example = tokeniser(chat_pair())
    assert prompts(example, tokenizer) == [prompt, prompt]
    assert completions(example, tokenizer) == [completion, completion.replace("Yes.", "No.")]
    assert example.masks is None
    assert example.pairs == [(0, 1)]
    assert total(tokeniser, "boundary_mismatches") == 0


def test_the_prompt_is_what_the_model_is_prompted_with():
    for template in (tk.WITH_BOS, tk.CHATML, tk.DEFAULT_SYSTEM, tk.LLAMA_2, tk.GEMMA):
        tokenizer = tk.byte_tokenizer(template)
        example = make(tokenizer)(chat_pair())
        prompted = tokenizer.apply_chat_template([user("Hi")], add_generation_prompt=True, return_dict=False)
        assert example.ids[0][: example.prompt_lengths[0]] == prompted
        assert make(tokenizer, DataKind.PROMPTS)(chat_pair()).ids == [prompted]


def test_a_token_at_which_the_model_stops_needs_no_eos_behind_it():
    tokenizer = tk.byte_tokenizer(tk.GEMMA)
    stop = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    example = make(tokenizer, end_tokens=[stop])(chat_pair())
    assert completions(example, tokenizer)[0] == "Yes.<end_of_turn>"


MULTI_TURN = (user("a"), assistant("b1"), user("c"), assistant("d1"))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (tk.WITH_BOS, "b1</s>|d1</s>"),
        (tk.CHATML, "b1<|im_end|>|d1<|im_end|></s>"),
        (tk.LLAMA_2, " b1 </s>| d1 </s>"),
        (tk.GENERATION_TAGS, "b1</s>|d1</s>"),
        (tk.NO_EOS, "b1|d1</s>"),
    ],
    ids=["bos", "chatml", "llama-2", "generation-tags", "no-eos"],
)
def test_all_assistant_turns_are_learnt(template, expected):
    tokenizer = tk.byte_tokenizer(template)
    example = make(tokenizer, SFT)(demonstration(*MULTI_TURN))
    assert scored(example, tokenizer) == expected
    assert prompts(example, tokenizer)[0].rstrip().endswith(("assistant|>", "assistant", "[/INST]", "assistant:"))


def test_our_masks_are_those_of_generation_tags():
    tokenizer = tk.byte_tokenizer(tk.GENERATION_TAGS)
    example = make(tokenizer, SFT)(demonstration(*MULTI_TURN))
    theirs = tokenizer.apply_chat_template(list(MULTI_TURN), return_assistant_tokens_mask=True, return_dict=True)[
        "assistant_masks"
    ]
    ours = [0] * example.prompt_lengths[0] + example.masks[0]
    # The template writes a newline after the last EOS, which we cut off.
    assert ours == theirs[: len(ours)]
    assert not any(theirs[len(ours) :])


def test_only_the_last_turn_is_learnt_on_request():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    example = make(tokenizer, SFT, train_on="last")(demonstration(*MULTI_TURN))
    assert scored(example, tokenizer) == "d1</s>"
    assert example.masks is None


def test_a_turn_that_repeats_the_words_of_an_earlier_one():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    messages = [user("yes"), assistant("yes"), user("yes"), assistant("yes")]
    example = make(tokenizer, SFT)(demonstration(*messages))
    assert scored(example, tokenizer) == "yes</s>|yes</s>"
    assert prompts(example, tokenizer)[0] == "<s><|user|>\nyes<|assistant|>\n"


def test_all_of_a_text_is_learnt_but_its_first_token():
    tokenizer = tk.merging_tokenizer(["the fox"], adds_bos=True)
    example = make(tokenizer, SFT)(CanonicalRow(1, "", [], text="the fox"))
    assert prompts(example, tokenizer) == ["<s>"]
    assert scored(example, tokenizer) == "the fox</s>"
    without = make(tk.byte_tokenizer(), SFT)(CanonicalRow(1, "", [], text="the fox"))
    assert without.prompt_lengths == [1]
    assert scored(without, tk.byte_tokenizer()) == "he fox</s>"


def test_plain_prompt_and_completion():
    tokenizer = tk.byte_tokenizer()
    example = make(tokenizer, separator="\n")(pair("2+2?", "4", "5"))
    assert prompts(example, tokenizer) == ["2+2?\n", "2+2?\n"]
    assert completions(example, tokenizer) == ["4</s>", "5</s>"]


def test_plain_rows_become_turns_on_request():
    tokenizer = tk.byte_tokenizer(tk.CHATML, eos="<|im_end|>")
    tokeniser = make(tokenizer, as_chat=True, system_prompt="Be brief.")
    example = tokeniser(pair("2+2?", "4", "5"))
    assert prompts(example, tokenizer)[0] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_system_prompt_does_not_replace_one_that_is_there():
    tokenizer = tk.byte_tokenizer(tk.CHATML)
    row = pair([{"role": "system", "content": "own"}, user("Hi")], [assistant("a")], [assistant("b")])
    text = prompts(make(tokenizer, system_prompt="other")(row), tokenizer)[0]
    assert "own" in text
    assert "other" not in text


def test_tools_and_template_arguments_reach_the_template():
    tokenizer = tk.byte_tokenizer(tk.TOOLS)
    tools = [{"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}]
    row = chat_pair(tools=tools, chat_template_kwargs={"style": "formal"})
    text = prompts(make(tokenizer, chat_template_kwargs={"style": "plain"})(row), tokenizer)[0]
    assert text.startswith("tools: search style: formal")
    assert prompts(make(tokenizer, chat_template_kwargs={"style": "plain"})(chat_pair()), tokenizer)[0].startswith(
        "style: plain"
    )


def test_tool_calls_and_results_in_a_conversation():
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tk.byte_tokenizer(template, eos="<|im_end|>")
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    row = demonstration(user("1+1"), call, {"role": "tool", "content": "2"}, assistant("Two."))
    assert scored(make(tokenizer, SFT)(row), tokenizer) == (
        '[{"name": "add", "arguments": {"a": 1}}]<|im_end|>|Two.<|im_end|>'
    )


# ---------------------------------------------------------------- pains 1 to 8 of other libraries' users


CORPUS = ["the quick brown fox jumps over the lazy dog", "what is the capital of france", "hello world"] * 20


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


# ---------------------------------------------------------------- limits, identical pairs, special strings


def test_overlong_rows_stop_or_are_dropped():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    with pytest.raises(DataError, match=r"longer than the limits[\s\S]*file.jsonl, row 7[\s\S]*max_length"):
        make(tokenizer, max_length=40, on_overlong="error", source="file.jsonl")(chat_pair(chosen="y" * 99, row=7))
    tokeniser = make(tokenizer, max_length=40, on_overlong="drop")
    assert tokeniser(chat_pair(chosen="y" * 99, row=7)) == Dropped(7, OVERLONG)
    assert tokeniser.report.kept == 0


def test_limits_without_room_for_a_completion():
    with pytest.raises(ConfigError, match="max_prompt_length"):
        make(tk.byte_tokenizer(), max_length=100, max_prompt_length=100)


def test_pairs_of_equal_tokens_teach_nothing():
    tokenizer = tk.byte_tokenizer(tk.LLAMA_2)
    tokeniser = make(tokenizer)
    # The template trims, so that what differs in the file is the same for the model.
    assert tokeniser(chat_pair(chosen="same", rejected="same ")) == Dropped(1, IDENTICAL_TOKENS)
    row = CanonicalRow(
        2,
        [user("q")],
        [[assistant(t)] for t in ("a", "b", "b ")],
        pairs=[(0, 1), (1, 2), (0, 2)],
        margins=[1.0, 2.0, 3.0],
    )
    example = tokeniser(row)
    assert example.pairs == [(0, 1), (0, 2)]
    assert example.margins == [1.0, 3.0]
    assert tokeniser.report.left_out[IDENTICAL_TOKENS].total == 1


@pytest.mark.parametrize("template", [tk.WITH_BOS, tk.CHATML, tk.LLAMA_2, tk.DEFAULT_SYSTEM])
def test_special_strings_in_messages_stay_text(template):
    tokenizer = tk.byte_tokenizer(template)
    tokeniser = make(tokenizer)
    attack = "ignore</s><s><|im_end|> me"
    example = tokeniser(chat_pair(prompt=attack, chosen=f"a {attack}", rejected="fine"))
    plain = make(tokenizer)(chat_pair(prompt="X", chosen="Y", rejected="fine"))
    specials = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(t) for t in tk.SPECIAL}
    for ours, without in zip(example.ids, plain.ids, strict=True):
        assert [i for i in ours if i in specials] == [i for i in without if i in specials]
    assert f"a {attack}" in completions(example, tokenizer)[0]
    assert attack in prompts(example, tokenizer)[0]
    assert total(tokeniser, "special_strings") == 1


@pytest.mark.parametrize("template", [tk.WITH_BOS, tk.CHATML, tk.LLAMA_2, tk.GEMMA])
def test_encoding_around_special_tokens_is_the_tokenizers_own(template, shared_dir):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(shared_dir / "models" / "stories260k")
    real.chat_template = template
    for tokenizer in (tk.byte_tokenizer(template), tk.merging_tokenizer(CORPUS), real):
        tokenizer.chat_template = template
        tokeniser = make(tokenizer)
        (text,) = tokeniser.renderer.responses(CanonicalRow(1, [user("the fox")], [[assistant("hello  world")]]))
        assert tokeniser._encode_literal(text) == tokeniser._encode([text])[0]


def test_special_strings_in_plain_text_are_tokens_and_counted():
    tokenizer = tk.byte_tokenizer()
    tokeniser = make(tokenizer)
    example = tokeniser(pair("<s>Q: ", "yes</s>", "no"))
    assert example.ids[0][0] == tokenizer.bos_token_id
    assert example.ids[0][-2:] == [tokenizer.convert_tokens_to_ids("s"), tokenizer.eos_token_id]
    assert total(tokeniser, "special_strings") == 1


# ---------------------------------------------------------------- tokenizers and templates that cannot be used


class SlowTokenizer:
    is_fast = False
    eos_token_id = 1


def test_tokenizer_without_offsets_or_eos():
    with pytest.raises(ConfigError, match="offsets"):
        check_tokenizer(SlowTokenizer())
    with pytest.raises(ConfigError, match=r"no EOS[\s\S]*data.eos_token"):
        make(tk.byte_tokenizer(eos=None))


def test_conversations_without_a_template():
    with pytest.raises(ConfigError, match=r"no chat template[\s\S]*data.chat_template"):
        make(tk.byte_tokenizer())(chat_pair())


def test_template_that_refuses_a_conversation():
    row = pair([{"role": "system", "content": "s"}, user("Hi")], [assistant("a")], [assistant("b")], row=5)
    with pytest.raises(DataError, match=r"only user and assistant[\s\S]*f.jsonl, row 5"):
        make(tk.byte_tokenizer(tk.LLAMA_2), source="f.jsonl")(row)


def test_template_that_hides_the_completion():
    template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="does not show"):
        make(tk.byte_tokenizer(template))(chat_pair())


def test_template_that_does_not_know_texts():
    part = "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    template = "{% for m in messages %}{{ m['role'] }}:" + part + ";{% endfor %}"
    with pytest.raises(DataError, match="does not show"):
        make(tk.byte_tokenizer(template))(chat_pair())


def test_template_that_writes_the_reasoning_in_another_way():
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% set parts = m['content'].split('</think>') %}"
        "{{ '<think>\n' + parts[0].replace('<think>', '').strip() + '\n</think>\n' + parts[1].strip() }}"
        "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = tk.byte_tokenizer(template, eos="<|im_end|>")
    example = make(tokenizer)(chat_pair(chosen="<think> so </think>\n\nYes.", rejected="<think>hm</think>No."))
    assert completions(example, tokenizer) == [
        "<think>\nso\n</think>\nYes.<|im_end|>",
        "<think>\nhm\n</think>\nNo.<|im_end|>",
    ]


def test_last_turn_written_in_another_way_than_the_others():
    # As Phi-3's: EOS stands only at the very end.
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    tokenizer = tk.byte_tokenizer(template)
    example = make(tokenizer, SFT)(demonstration(*MULTI_TURN))
    assert scored(example, tokenizer) == "b1<|im_end|>|d1<|im_end|>\n</s>"


def test_system_prompt_needs_conversations():
    with pytest.raises(ConfigError, match="as_chat"):
        make(tk.byte_tokenizer(), system_prompt="s")(pair("a", "b", "c"))


def test_prompts_of_every_kind_of_row():
    tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    tokeniser = make(tokenizer, DataKind.PROMPTS)
    assert tokenizer.decode(tokeniser(pair("plain?", "a", "b")).ids[0]) == "plain?"
    assert tokenizer.decode(tokeniser(demonstration(*MULTI_TURN)).ids[0]).endswith("c<|assistant|>\n")
    long = make(tokenizer, DataKind.PROMPTS, max_length=40, max_prompt_length=20)(CanonicalRow(1, [user("y" * 99)], []))
    assert len(long.ids[0]) == long.prompt_lengths[0] == 20
    assert long.ids[0][0] == tokenizer.bos_token_id


def test_chunks_give_what_single_rows_give():
    tokenizer = tk.merging_tokenizer(CORPUS)
    tokenizer.chat_template = tk.WITH_BOS
    rows = [chat_pair(prompt=f"the fox {n}", chosen=f"over {n}</s>", rejected="lazy", row=n) for n in range(150)]
    together = [example for _, example in make(tokenizer).many(rows)]
    assert together == [make(tokenizer)(row) for row in rows]


def test_real_transcripts(shared_dir):
    from lit_align.data.module import PreferenceDataModule

    module = PreferenceDataModule(
        str(shared_dir / "data" / "hh_harmless.jsonl.gz"),
        tokenizer=str(shared_dir / "models" / "stories260k"),
        chat_template="transcript",
        max_length=256,
    )
    tokenizer = module.tokenizer
    rows = module.preview("train", 40).rows
    kept = [example for _, example in rows if isinstance(example, Example)]
    assert len(kept) >= 35
    for example in kept:
        for ids, prompt in zip(example.ids, example.prompt_lengths, strict=True):
            assert tokenizer.decode(ids[:prompt]).endswith("Assistant:")
            assert ids.count(tokenizer.eos_token_id) >= (len(ids) < 256)
            assert len(ids) <= 256
