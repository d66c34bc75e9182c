"""The tokenizer of the data module: whose it is, its template and end tokens, and the lengths that it allows."""

from __future__ import annotations

import json
import shutil

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.module import PreferenceDataModule
from lit_align.data.templates import BUILT_IN
from tests.data import tokenizers as tk
from tests.data.modules import QUIET, Method, fit, write

pytestmark = QUIET


def test_the_tokenizer_is_the_policys(tmp_path, pairs, tiny_model_dir):
    method = Method()
    method.policy_name = tiny_model_dir
    data = PreferenceDataModule(pairs, cache_dir=str(tmp_path / "cache"), batch_size=4, chat_template="chatml")
    fit(tmp_path, data, method)
    assert data.tokenizer.chat_template == BUILT_IN["chatml"]
    assert len(method.seen) == 7


def test_without_tokenizer(make, pairs):
    data = make(pairs)
    data.sets._tokenizer = None
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        data.examples("train")


def test_settings_do_not_change_a_tokenizer_that_was_passed(make, pairs):
    tokenizer = tk.byte_tokenizer()
    data = make(pairs, chat_template="transcript", eos_token="<|im_end|>")
    example = data.examples("train", tokenizer=tokenizer)[0]
    assert example.ids[0][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert data.tokenizer.chat_template == BUILT_IN["transcript"]
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token == "</s>"
    with pytest.raises(ConfigError, match="not one of the tokenizer's tokens"):
        make(pairs, eos_token="<nope>").examples("train", tokenizer=tokenizer)


def test_the_tokenizer_limits_the_length(make, pairs):
    tokenizer = tk.byte_tokenizer()
    tokenizer.model_max_length = 8
    data = make(pairs, max_prompt_length=512)
    assert max(len(ids) for example in data.examples("train", tokenizer=tokenizer) for ids in example.ids) == 8
    assert data.reports["train"].notes == ["max_length 8: model and tokenizer allow no more"]


def test_the_model_limits_the_length(tmp_path, make, tiny_model_dir):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "chosen": "b" * 999, "rejected": "c"}])
    data = make(path, tokenizer=tiny_model_dir)
    assert max(len(ids) for ids in data.examples("train")[0].ids) == 512
    assert data.reports["train"].notes == ["max_length 512: model and tokenizer allow no more"]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_templates_let_the_completion_end(make, tmp_path, name):
    row = {"messages": [{"role": role, "content": text} for role, text in (
        ("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]}  # fmt: skip
    data = make(write(tmp_path / "m.jsonl", [row]), chat_template=name)
    example = data.examples("train", DataKind.DEMONSTRATIONS, tk.byte_tokenizer())[0]
    tokenizer = data.tokenizer
    scored = [i for i, on in zip(example.ids[0][example.prompt_lengths[0] :], example.masks[0], strict=True) if on]
    assert tokenizer.decode(scored).replace(" ", "") == "b</s>d</s>"
    assert data.reports["train"].events["boundary_mismatches"].total == 0


def test_tokens_at_which_the_model_stops(tmp_path, make, tiny_model_dir):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 6, 99_999]}))
    path = write(tmp_path / "m.jsonl", [{"prompt": [{"role": "user", "content": "a"}],
                                         "completion": [{"role": "assistant", "content": "b"}]}])  # fmt: skip
    data = make(path, tokenizer=str(folder))
    example = data.examples("train", DataKind.DEMONSTRATIONS, tk.byte_tokenizer(tk.GEMMA))[0]
    assert data.tokenizer.decode(example.ids[0]).endswith("b<end_of_turn>")
