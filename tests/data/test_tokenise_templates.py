"""Golden prompts, completions and masks per chat template, and templates that cannot be used."""

from __future__ import annotations

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import CanonicalRow
from lit_align.data.report import DataReport
from tests.data import tokenizers as tk
from tests.data.reading import assistant, user
from tests.data.tokenised import (
    MULTI_TURN,
    SFT,
    chat_pair,
    completions,
    demonstration,
    make,
    pair,
    prompts,
    scored,
    total,
)

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


def test_conversations_without_a_template():
    with pytest.raises(ConfigError, match=r"no chat template[\s\S]*data.chat_template"):
        make(tk.byte_tokenizer())(chat_pair())


def test_template_that_refuses_a_conversation():
    row = pair([{"role": "system", "content": "s"}, user("Hi")], [assistant("a")], [assistant("b")], row=5)
    with pytest.raises(DataError, match=r"only user and assistant[\s\S]*f.jsonl, row 5"):
        make(tk.byte_tokenizer(tk.LLAMA_2), report=DataReport("f.jsonl"))(row)


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
