"""The policy as a writer: asked in the tokens of training, its own tokens kept where text would lose them."""

from __future__ import annotations

import pytest

from lit_align.core.errors import DataError
from lit_align.data.module import PreferenceDataModule
from lit_align.loops.writer import Sampling, Writer
from lit_align.methods.dpo import DPO
from lit_align.rollouts.engine import Completion


class Scripted:
    """An engine that says what it is told to, and remembers what it was asked."""

    def __init__(self, tokenizer, said: list[list[int]]) -> None:
        self.tokenizer, self.said, self.asked, self.seeds = tokenizer, said, [], []

    def generate(self, prompts, *, samples, seed, **settings):
        self.asked += prompts
        self.seeds += seed
        owners = [prompt for prompt in prompts for _ in range(samples)]
        text = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in self.said]
        return [
            Completion(prompt, words, ids, ids[-1] == self.tokenizer.eos_token_id or words.endswith(settings["stop"]))
            for prompt, words, ids in zip(owners, text, self.said, strict=True)
        ]


@pytest.fixture
def sets(tiny_model_dir, tmp_path):
    data = PreferenceDataModule(train=str(tmp_path / "none.jsonl"), max_length=64)
    data.sets.method = DPO(policy=tiny_model_dir)
    return data.sets


def write(sets, said, prompts, samples=1, **settings):
    engine = Scripted(sets.tokenizer, said)
    writer = Writer(engine, sets.tokenizer, sets, seed=3)
    sampling = Sampling(max_new_tokens=8, **settings)
    return writer.write(prompts, samples=samples, number=2, sampling=sampling), engine


def ids_of(tokenizer, text):
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_prompts_are_asked_in_the_tokens_of_training(sets):
    tokenizer = sets.tokenizer
    conversation = [{"role": "user", "content": "Who?"}]
    prompts = [{"id": "a", "prompt": "Say it."}, {"id": "b", "prompt": "No."}]
    rows, engine = write(sets, [ids_of(tokenizer, " yes"), ids_of(tokenizer, " no")], prompts)
    assert [row["completion"] for row in rows] == [" yes", " no"]
    assert tokenizer.decode(engine.asked[0]) == "Say it."
    _, engine = write(sets, [ids_of(tokenizer, "me")], [{"id": "a", "prompt": conversation}])
    assert tokenizer.decode(engine.asked[0]).endswith("<|assistant|>\n")


def test_seeds_follow_from_the_names_alone(sets):
    tokenizer = sets.tokenizer
    said = [ids_of(tokenizer, "x")] * 4
    _, both = write(sets, said, [{"id": "a", "prompt": "1"}, {"id": "b", "prompt": "2"}], samples=2)
    _, alone = write(sets, said[:2], [{"id": "b", "prompt": "2"}], samples=2)
    assert len(set(both.seeds)) == 4
    assert both.seeds[2:] == alone.seeds


def test_a_completion_that_text_spells_otherwise_keeps_its_tokens(sets):
    tokenizer = sets.tokenizer
    eos = tokenizer.eos_token_id
    # Half a character of two bytes has no text that would be read as it again.
    half = tokenizer("é", add_special_tokens=False)["input_ids"][:1]
    rows, _ = write(sets, [ids_of(tokenizer, "fine"), [*half, eos]], [{"id": "a", "prompt": "1"}], samples=2)
    assert [row.get("ids") for row in rows] == [None, [*half, eos]]


def test_an_unfinished_completion_keeps_its_tokens_since_text_would_end_it(sets):
    ids = ids_of(sets.tokenizer, "and so")[:-1]
    rows, _ = write(sets, [ids], [{"id": "a", "prompt": "1"}])
    assert rows == [{"id": "a", "sample": 0, "completion": "and so", "tokens": len(ids), "finished": False, "ids": ids}]


def test_what_a_stop_string_ended_is_learnt_as_text_and_what_else_ended_as_it_was_drawn(sets):
    tokenizer = sets.tokenizer
    half = [*tokenizer("é", add_special_tokens=False)["input_ids"][:1], tokenizer.eos_token_id]
    cut = ids_of(tokenizer, "fi")[:-1]
    stopped = ids_of(tokenizer, "fineS")[:-1]
    prompts = [{"id": "a", "prompt": "1"}]
    rows, _ = write(sets, [half, cut, stopped], prompts, samples=3, stop=("S",))
    assert [row.get("ids") for row in rows] == [half, cut, None]
    assert rows[2]["finished"]


def test_a_text_that_would_be_too_long_keeps_its_tokens(tiny_model_dir, tmp_path):
    data = PreferenceDataModule(train=str(tmp_path / "none.jsonl"), max_length=64, on_overlong="error")
    data.sets.method = DPO(policy=tiny_model_dir)
    cut = ids_of(data.sets.tokenizer, "12345678")[:-1]
    rows, _ = write(data.sets, [cut], [{"id": "a", "prompt": "p" * 56}])
    assert rows[0]["ids"] == cut


def test_a_prompt_that_is_too_long_is_named_wherever_it_stands_among_others(tiny_model_dir, tmp_path):
    data = PreferenceDataModule(train=str(tmp_path / "none.jsonl"), max_length=64, on_overlong="error")
    data.sets.method = DPO(policy=tiny_model_dir)
    prompts = [{"id": "k", "row": 7, "prompt": "short"}, {"id": "b", "row": 12, "prompt": "p" * 60}]
    writer = Writer(Scripted(data.sets.tokenizer, []), data.sets.tokenizer, data.sets, seed=3)
    with pytest.raises(DataError, match=r"prompt b: .*\n.*row 12"):
        writer.encode(prompts, 8)
    with pytest.raises(DataError, match=r"prompt b: .*\n.*row 12"):
        writer.encode(prompts[::-1], 8)
