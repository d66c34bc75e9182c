"""A Hugging Face model as an engine: completions, and what may come next."""

from __future__ import annotations

import math

import pytest
import torch

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.data.text_settings import FILE, TextSettings
from lit_align.rollouts.candidates import endings_of
from lit_align.rollouts.engine import Engine, PromptError
from lit_align.rollouts.hf import generate
from lit_align.rollouts.hf_engine import HFEngine
from tests.helpers import build_tiny_tokenizer, tiny_model

PROMPTS = ["a", "The quick brown fox", "jumps over"]
TURNS = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def engine():
    return HFEngine.of(Scorer(tiny_model(dtype=torch.float64)), build_tiny_tokenizer(), batch_size=2)


def by_hand(model, prompt: list[int], ending: list[int]) -> float:
    """Log-probability of tokens behind others, from the plain model."""
    with torch.no_grad():
        logps = model.eval()(torch.tensor([prompt + ending])).logits[0].log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + n, token]) for n, token in enumerate(ending))


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert not isinstance(object(), Engine)


def test_completions_are_those_of_generate(model, engine):
    expected = generate(model, build_tiny_tokenizer(), PROMPTS, max_new_tokens=6, temperature=1.0, seed=[4, 5, 6])
    assert engine.generate(PROMPTS, max_new_tokens=6, temperature=1.0, seed=[4, 5, 6]) == expected


def test_candidates_are_weighed_as_by_the_plain_model(model, engine):
    tokenizer = build_tiny_tokenizer()
    weighed = engine.token_logps(PROMPTS, [" A", " Bcd", "x"])
    for prompt, row in zip(PROMPTS, weighed, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        endings = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" A", " Bcd", "x"))
        assert row == pytest.approx([by_hand(model, ids, ending) for ending in endings], abs=1e-9)


def test_a_candidate_that_begins_another_is_weighed_without_it(model, engine):
    """ "1" is not "10": the model may go on with the zero."""
    tokenizer = build_tiny_tokenizer()
    one, two, ten, hundred = engine.token_logps(["a"], ["1", "2", "10", "100"])[0]
    plain = {
        text: by_hand(model, tokenizer("a")["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in ("1", "2", "10", "100")
    }
    assert two == pytest.approx(plain["2"])
    assert hundred == pytest.approx(plain["100"])
    assert math.exp(one) == pytest.approx(math.exp(plain["1"]) - math.exp(plain["10"]))
    assert math.exp(ten) == pytest.approx(math.exp(plain["10"]) - math.exp(plain["100"]))


def test_conversations_are_gone_on_with(model, engine):
    tokenizer = build_tiny_tokenizer()
    begun = [*TURNS, {"role": "assistant", "content": "Score:"}]
    opening = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)
    (asked, answered) = engine.token_logps([TURNS, begun], [" A", " B"])
    score = tokenizer("Score:", add_special_tokens=False)["input_ids"]
    endings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" A", " B")]
    assert asked == pytest.approx([by_hand(model, opening, ending) for ending in endings], abs=1e-9)
    assert answered == pytest.approx([by_hand(model, opening + score, ending) for ending in endings], abs=1e-9)
    assert (
        engine.generate([begun], max_new_tokens=4)[0].ids == engine.generate([opening + score], max_new_tokens=4)[0].ids
    )


def test_prompts_of_tokens(engine):
    ids = build_tiny_tokenizer()("a")["input_ids"]
    assert engine.token_logps([ids], ["x"]) == engine.token_logps(["a"], ["x"])


def test_prompts_without_room_are_named(engine):
    with pytest.raises(PromptError) as error:
        engine.token_logps(["a", "x" * 600, "", "y" * 600], ["A"])
    assert error.value.row == 2
    assert list(error.value.refused) == [2, 3, 4]


@pytest.mark.parametrize("candidates", [[], ["A", "A"]])
def test_candidates_must_differ(engine, candidates):
    with pytest.raises(ConfigError, match="different texts"):
        engine.token_logps(["a"], candidates)


def test_a_folder_is_loaded_at_first_use_and_released(tiny_model_dir):
    engine = HFEngine(tiny_model_dir, dtype="float64")
    assert engine._scorer is None
    before = engine.token_logps(PROMPTS, ["A", "B"])
    engine.release()
    assert engine._scorer is None
    assert engine.token_logps(PROMPTS, ["A", "B"]) == before


def test_a_model_that_is_not_there():
    with pytest.raises(ConfigError, match="does not exist"):
        HFEngine("/no/such/folder").token_logps(["a"], ["A"])


def test_a_template_of_ones_own(tiny_model_dir):
    engine = HFEngine(tiny_model_dir, chat_template="transcript")
    assert engine.tokenizer.apply_chat_template(TURNS, tokenize=False).startswith("<s>\n\nHuman: hello")


def test_the_mode_of_a_live_model_is_restored(engine):
    engine.scorer.train()
    engine.token_logps(["a"], ["x"])
    assert engine.scorer.model.training


def test_a_sentencepiece_tokenizer(shared_dir):
    """Its first token of a text holds a white space of its own, which a candidate in the middle must not have."""
    engine = HFEngine(str(shared_dir / "models" / "stories260k"), dtype="float64")
    prompt = "Once upon a time there was a"
    ids = engine.tokenizer(prompt + " dog")["input_ids"][len(engine.tokenizer(prompt)["input_ids"]) :]
    assert endings_of(engine.tokenizer, prompt, engine.tokenizer(prompt)["input_ids"], [" dog"]) == [ids]
    dog, xylophone = engine.token_logps([prompt], [" little", " xylophone"])[0]
    assert dog > xylophone + 5


class TestPromptsOfTheData:
    """They are written as the model has learnt to answer them."""

    turn = {"role": "user", "content": "Hi"}  # noqa: RUF012 - of a test
    system = {"role": "system", "content": "Be kind."}  # noqa: RUF012 - of a test

    @pytest.fixture
    def exported(self, tmp_path):
        def put(**settings):
            (tmp_path / FILE).write_text(TextSettings(**settings).to_json())
            return str(tmp_path)

        return put

    def test_as_exported(self, exported):
        assert HFEngine(exported(separator="\n")).as_trained("Hi") == "Hi\n"
        assert HFEngine(exported(separator="\n")).as_trained([self.turn]) == [self.turn]
        chat = HFEngine(exported(as_chat=True, system_prompt="Be kind."))
        assert chat.as_trained("Hi") == chat.as_trained([self.turn]) == [self.system, self.turn]
        own = [{"role": "developer", "content": "Be brief."}, self.turn]
        assert chat.as_trained(own) == own
        assert chat.as_trained([1, 2]) == [1, 2]

    def test_as_told(self, exported):
        folder = exported(separator="\n", as_chat=True, system_prompt="Be kind.")
        assert HFEngine(folder, as_chat=False).as_trained("Hi") == "Hi\n"
        assert HFEngine(folder, as_chat=False, separator="").as_trained("Hi") == "Hi"
        assert HFEngine(folder, system_prompt="").as_trained("Hi") == [self.turn]

    def test_as_they_are(self, tiny_model_dir):
        assert HFEngine(tiny_model_dir).as_trained("Hi") == "Hi"
