"""Completions: right with any padding, reproducible prompt by prompt, and without a trace in the model."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForSequenceClassification

from lit_align.core.errors import ConfigError, DataError
from lit_align.core.forward import Scorer
from lit_align.core.sharding import shard
from lit_align.rollouts.hf import Completion, encode_prompt, generate
from tests.helpers import build_tiny_tokenizer, tiny_model
from tests.launch import launch

EOS = 2
PROMPTS = ["a", "The quick brown fox", "jumps over", "the lazy dog, and then some more text", "z" * 11]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def by_hand(model, ids: list[int], steps: int) -> list[int]:
    """Greedy decoding without a cache, one token at a time."""
    model.eval()
    new: list[int] = []
    with torch.no_grad():
        while len(new) < steps and EOS not in new:
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_greedy_equals_one_token_at_a_time(model, tokenizer):
    completions = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=3)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert completion.prompt == prompt
        assert completion.ids == by_hand(model, tokenizer(prompt)["input_ids"], 12)
        assert completion.text == tokenizer.decode(completion.ids, skip_special_tokens=True)
        assert completion.finished == (EOS in completion.ids)


def test_adapters_are_used(model, tokenizer):
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules="all-linear"))
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert generate(Scorer(adapted), tokenizer, PROMPTS, max_new_tokens=8) == plain, "new adapters change nothing"
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    changed = generate(Scorer(adapted), tokenizer, PROMPTS, max_new_tokens=8)
    assert changed != plain
    merged = adapted.merge_and_unload()
    assert [c.ids for c in changed] == [by_hand(merged, tokenizer(p)["input_ids"], 8) for p in PROMPTS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_completion_does_not_depend_on_its_neighbours(model, tokenizer, temperature):
    sampling = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.95}
    together = generate(model, tokenizer, PROMPTS, seed=list(range(5)), batch_size=5, **sampling)
    for size in (1, 2):
        assert generate(model, tokenizer, PROMPTS, seed=list(range(5)), batch_size=size, **sampling) == together
    alone = generate(model, tokenizer, PROMPTS[2:3], seed=[2], **sampling)
    assert alone == together[2:3]


def test_seeds_decide(model, tokenizer):
    def sample(seed):
        return [c.ids for c in generate(model, tokenizer, ["a"] * 4, temperature=1.0, seed=seed, max_new_tokens=8)]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert len({tuple(ids) for ids in sample(1)}) == 4, "equal prompts get different samples"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_model(model, tokenizer, temperature):
    """First tokens of many samples against the model's probabilities."""
    count = 3000
    ids = [5, 6, 7]
    completions = generate(model, tokenizer, [ids] * count, max_new_tokens=1, temperature=temperature, batch_size=500)
    with torch.no_grad():
        expected = (model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
    found = torch.bincount(torch.tensor([c.ids[0] for c in completions]), minlength=len(expected)) / count
    assert (found - expected).abs().max() < 4 * (expected.max() * (1 - expected.max()) / count).sqrt()
    assert (found - expected).abs().sum() / 2 < 0.13, "total variation; about 0.09 from sampling alone"


def test_top_p_keeps_the_likeliest(model, tokenizer):
    ids = [5, 6, 7]
    with torch.no_grad():
        probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    ordered, tokens = probabilities.sort(descending=True)
    nucleus = set(tokens[: int((ordered.cumsum(0) < 0.3).sum()) + 1].tolist())
    completions = generate(model, tokenizer, [ids] * 200, max_new_tokens=1, temperature=1.0, top_p=0.3, batch_size=200)
    assert {c.ids[0] for c in completions} <= nucleus
    assert len({c.ids[0] for c in completions}) > 1


def test_nothing_is_left_behind(tokenizer):
    model = tiny_model(attention_dropout=0.5)
    scorer = Scorer(model).train()
    model.model.norm.eval()
    before = [(part, part.training) for part in scorer.modules()]
    attention = model.config._attn_implementation
    config = model.generation_config.to_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = generate(scorer, tokenizer, PROMPTS, max_new_tokens=4, temperature=0.7)
    assert torch.equal(torch.rand(3), expected), "the global generator was not used"
    assert all(part.training == mode for part, mode in before)
    assert model.config._attn_implementation == attention
    assert model.generation_config.to_dict() == config
    assert generate(scorer, tokenizer, PROMPTS, max_new_tokens=4, temperature=0.7) == first, "no dropout"
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=4, temperature=0.7) == first
    assert all(parameter.grad is None for parameter in model.parameters())


def scripted(text_ids: list[int]):
    """A model whose next token depends on the last one only: token i is followed by its successor in `text_ids`."""
    model = tiny_model(num_hidden_layers=0, tie_word_embeddings=False, hidden_size=264, num_attention_heads=4)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(264))
        model.lm_head.weight.zero_()
        for token, following in pairwise(text_ids):
            model.lm_head.weight[following, token] = 1.0
    return model


def test_completions_end_with_eos(tokenizer):
    ids = [40, 41, 42, EOS]
    (completion,) = generate(scripted(ids), tokenizer, [[40]], max_new_tokens=10)
    assert completion == Completion([40], tokenizer.decode([41, 42]), [41, 42, EOS], True)


def test_rows_that_end_early_are_cut_where_they_end(tokenizer):
    """The tokens that fill a row until its neighbours are done are no part of its completion."""
    model = scripted([40, 41, EOS])
    with torch.no_grad():
        model.lm_head.weight[51, 50] = model.lm_head.weight[50, 51] = 1.0
    early, late = generate(model, tokenizer, [[40], [50]], max_new_tokens=7)
    assert (early.ids, early.finished) == ([41, EOS], True)
    assert (late.ids, late.finished) == ([51, 50, 51, 50, 51, 50, 51], False)


def test_every_end_token_ends(tokenizer):
    """Chat models list several; the tokenizer's EOS ends a completion too."""
    model = scripted([40, 41, 99, 43])
    model.generation_config.eos_token_id = [98, 99]
    model.generation_config.pad_token_id = None
    (completion,) = generate(model, tokenizer, [[40]], max_new_tokens=10)
    assert (completion.ids, completion.finished) == ([41, 99], True)
    assert generate(scripted([40, EOS]), tokenizer, [[40]], max_new_tokens=5)[0].finished


def test_stop_strings(tokenizer):
    ids = tokenizer("ab;END?cd", add_special_tokens=False)["input_ids"]
    (completion,) = generate(scripted(ids), tokenizer, [ids[:1]], max_new_tokens=20, stop=["END", "never"])
    assert completion.text == "b;"
    assert tokenizer.decode(completion.ids) == "b;END"
    assert completion.finished


def test_a_stop_string_in_one_row_only(tokenizer):
    ids = tokenizer("ab;END?cd", add_special_tokens=False)["input_ids"]
    model = scripted(ids)
    with torch.no_grad():
        model.lm_head.weight[11, 10] = model.lm_head.weight[10, 11] = 1.0
    stopped, running = generate(model, tokenizer, [ids[:1], [10]], max_new_tokens=9, stop=["END"])
    assert (stopped.text, stopped.finished, len(stopped.ids)) == ("b;", True, 5)
    assert (len(running.ids), running.finished) == (9, False)


def test_prompts_of_all_kinds(tokenizer):
    ids = [5, 6, 7]
    assert encode_prompt(tokenizer, ids) == ids
    assert encode_prompt(tokenizer, "ab") == tokenizer("ab")["input_ids"]
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.decode(encode_prompt(tokenizer, chat)) == tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=False
    )


def test_an_eos_that_the_tokenizer_appends_is_no_part_of_a_prompt(tokenizer):
    class Appends:
        eos_token_id = EOS

        def __call__(self, text):
            return {"input_ids": [1, *tokenizer(text)["input_ids"], EOS]}

    assert encode_prompt(Appends(), "ab") == [1, *tokenizer("ab")["input_ids"]]


def test_nothing_to_do(model, tokenizer):
    assert generate(model, tokenizer, []) == []


@pytest.mark.parametrize(
    "setting",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"batch_size": 0}],
)
def test_bad_settings_are_refused(model, tokenizer, setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        generate(model, tokenizer, ["a"], **setting)


def test_bad_input_is_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="2 seeds, 1 completions"):
        generate(model, tokenizer, ["a"], seed=[1, 2])
    with pytest.raises(DataError, match="no tokens"):
        generate(model, tokenizer, ["a", ""])
    with pytest.raises(DataError, match="500 tokens and 20 new ones, of 512"):
        generate(model, tokenizer, [[5] * 500], max_new_tokens=20)
    with pytest.raises(ConfigError, match="chat template"):
        generate(model, build_tiny_tokenizer(chat_template=None), [[{"role": "user", "content": "hi"}]])
    reward = AutoModelForSequenceClassification.from_config(model.config)
    with pytest.raises(ConfigError, match="causal language model"):
        generate(reward, tokenizer, ["a"])


# -------------------------------------------------------------------- sharded


def sharded_job(lazy: bool):
    """Losses of a few steps with and without generating, ranks generating different amounts."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    tokenizer = build_tiny_tokenizer()
    expected = generate(tiny_model(), tokenizer, PROMPTS, max_new_tokens=6)
    weights = []
    for generates in (False, True):
        scorer = Scorer(tiny_model()).train()
        shard(scorer, mesh)
        optimizer = torch.optim.SGD(scorer.parameters(), 0.1)
        for step in range(3):
            if generates and (lazy or step):
                count = len(PROMPTS) if rank == 0 else 1
                found = generate(scorer, tokenizer, PROMPTS[:count], max_new_tokens=6 - 3 * rank, batch_size=2)
                assert step or [c.ids for c in found] == [c.ids[: 6 - 3 * rank] for c in expected[:count]]
            torch.manual_seed(step)
            ids = torch.randint(3, 250, (2, 9))
            loss = scorer_loss(scorer, ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(torch.cat([p.full_tensor().detach().flatten() for p in scorer.parameters()]))
    return torch.equal(*weights)


def scorer_loss(scorer, ids):
    from lit_align.core.batch import Example, Layout
    from lit_align.core.layout import build_rows

    rows = build_rows([Example(1, ids.tolist(), [3, 3])], Layout.PADDED)
    return -scorer.sequence_logps(rows).sums.sum()


@pytest.mark.parametrize("lazy", [True, False])
def test_sharded_weights(lazy):
    """Gathered once; training goes on as if nothing had been generated, also if that was the first thing ever."""
    assert launch(sharded_job, lazy) == [True, True]
