"""Several samples of a prompt from one copy of its keys and values, and the log-probabilities of what is written."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.sharding import shard
from lit_align.rollouts import hf
from lit_align.rollouts.hf import generate
from lit_align.rollouts.mixing import LogitMix
from lit_align.rollouts.stepping import can_share
from tests.helpers import build_tiny_tokenizer, tiny_model
from tests.launch import launch

EOS = 2
PROMPTS = ["a", "The quick brown fox", "jumps over", "the lazy dog, and then some more text"]
SAMPLING = {"max_new_tokens": 9, "temperature": 1.0, "seed": 3, "logps": True}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype=torch.float64)


def adapted(model):
    """With adapters that do something."""
    model = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def sliding():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=264, num_key_value_heads=1, sliding_window=6, eos_token_id=2, **small)
    return MistralForCausalLM(config).double()


def stateful():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=264, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=2)
    return MambaForCausalLM(config)


def same(ones, others, tolerance=1e-9):
    """Equal words, and log-probabilities up to rounding."""
    assert [one._replace(logps=None) for one in ones] == [other._replace(logps=None) for other in others]
    for one, other in zip(ones, others, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=tolerance)


MODELS = {
    "plain": lambda: tiny_model(dtype=torch.float64),
    "lora": lambda: adapted(tiny_model(dtype=torch.float64)),
    "sliding window": sliding,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 100])
def test_samples_are_those_of_copies_of_the_prompt(kind, batch_size, tokenizer):
    model = MODELS[kind]()
    assert can_share(model)
    copies = [prompt for prompt in PROMPTS for _ in range(4)]
    expected = generate(model, tokenizer, copies, batch_size=5, **SAMPLING)
    found = generate(model, tokenizer, PROMPTS, samples=4, batch_size=batch_size, **SAMPLING)
    same(found, expected)
    assert len({tuple(one.ids) for one in found[:4]}) == 4


def test_a_model_with_a_state_gets_copies(tokenizer):
    model = stateful()
    assert not can_share(model)
    prompts = [[5, 6, 7], [8, 9, 10]]
    expected = generate(model, tokenizer, [prompts[0]] * 2 + [prompts[1]] * 2, **SAMPLING)
    same(generate(model, tokenizer, prompts, samples=2, **SAMPLING), expected, 1e-4)


def test_prompts_go_through_the_model_once(model, tokenizer, monkeypatch):
    made = []

    class Counted(hf.Prefix):
        def __init__(self, model, prompts):
            made.append(prompts.ids.shape)
            super().__init__(model, prompts)

    monkeypatch.setattr(hf, "Prefix", Counted)
    generate(model, tokenizer, [[5] * 6, [6] * 6, [7] * 6], samples=5, batch_size=2, max_new_tokens=2)
    assert made == [(1, 6)] * 3, "although the samples of a prompt make three batches"
    made.clear()
    generate(model, tokenizer, [[5] * 6, [6] * 6, [7] * 6], samples=2, batch_size=4, max_new_tokens=2)
    assert made == [(2, 6), (1, 6)]
    made.clear()
    generate(model, tokenizer, [[5], [6]], samples=2, max_new_tokens=2)
    generate(model, tokenizer, [[5, 6]], max_new_tokens=2)
    assert made == []


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_log_probabilities_are_the_models_own(tokenizer, penalty):
    """Whatever temperature, truncation or penalty has made of them."""
    model = tiny_model(dtype=torch.float64)
    model.generation_config.repetition_penalty = penalty
    for setting in ({}, {"temperature": 0.6, "top_k": 30, "top_p": 0.9, "min_p": 0.01}):
        for one in generate(model, tokenizer, PROMPTS, samples=2, max_new_tokens=9, logps=True, **setting):
            prompt = tokenizer(one.prompt)["input_ids"]
            with torch.no_grad():
                every = model(torch.tensor([prompt + one.ids])).logits[0].log_softmax(-1)
            expected = [float(every[len(prompt) - 1 + n, token]) for n, token in enumerate(one.ids)]
            assert one.logps == pytest.approx(expected, abs=1e-9)


def test_log_probabilities_end_where_the_completion_ends(tokenizer):
    model = tiny_model(num_hidden_layers=0, tie_word_embeddings=False, hidden_size=264, num_attention_heads=4)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(264))
        model.lm_head.weight.zero_()
        for token, following in ((40, 41), (41, EOS), (50, 51), (51, 50)):
            model.lm_head.weight[following, token] = 1.0
    early, late = generate(model, tokenizer, [[40], [50]], max_new_tokens=7, logps=True)
    assert (len(early.logps), len(late.logps)) == (2, 7)
    assert generate(model, tokenizer, [[40]], max_new_tokens=7)[0].logps is None


def test_truncation(model, tokenizer):
    ids = [5, 6, 7]
    with torch.no_grad():
        chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    ordered, tokens = chances.sort(descending=True)

    def drawn(**setting):
        found = generate(
            model, tokenizer, [ids], samples=200, max_new_tokens=1, temperature=1.0, batch_size=200, **setting
        )
        return {one.ids[0] for one in found}

    assert drawn(top_k=3) == set(tokens[:3].tolist())
    assert drawn(top_k=1) == {int(tokens[0])}
    likely = set(tokens[ordered >= 0.8 * ordered[0]].tolist())
    assert 1 < len(drawn(min_p=0.8)) <= len(likely)
    assert drawn(min_p=0.8) <= likely


def test_gradient_checkpointing_is_no_hindrance(tokenizer):
    """The cache is used, and training goes on with checkpoints."""
    expected = generate(tiny_model(), tokenizer, PROMPTS, samples=2, **SAMPLING)
    model = tiny_model()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    scorer = Scorer(model).train()
    lengths = []
    handle = model.register_forward_hook(lambda m, a, k, out: lengths.append(k["input_ids"].shape[1]), with_kwargs=True)
    same(generate(scorer, tokenizer, PROMPTS, samples=2, **SAMPLING), expected, 1e-4)
    handle.remove()
    # The longest prompt once, then token by token.
    assert set(lengths[1:]) == {1}
    assert model.is_gradient_checkpointing
    assert model.training
    assert model.config.use_cache is False
    assert not model._forward_hooks


def test_progress_hears_of_every_completion_once(model, tokenizer):
    heard = []
    found = generate(model, tokenizer, PROMPTS, samples=3, batch_size=4, max_new_tokens=2, progress=heard.append)
    assert len(heard) == 4
    assert sorted(id(one) for batch in heard for one in batch) == sorted(map(id, found))


@pytest.mark.parametrize("setting", [{"samples": 0}, {"top_k": 0}, {"min_p": 1.5}, {"min_p": -0.1}])
def test_bad_settings_are_refused(model, tokenizer, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name}: {value}"):
        generate(model, tokenizer, ["a"], **setting)


def test_every_sample_needs_a_seed(model, tokenizer):
    with pytest.raises(ConfigError, match="2 seeds, 4 completions"):
        generate(model, tokenizer, ["a", "b"], samples=2, seed=[1, 2])


# -------------------------------------------------------------------- two processes


def distributed_job(kind: str):
    """Each rank writes its share; together they have what one process writes."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    tokenizer = build_tiny_tokenizer()
    expected = generate(tiny_model(), tokenizer, PROMPTS, samples=3, **SAMPLING)
    scorer = Scorer(tiny_model()).train()
    if kind != "ddp":
        shard(scorer, init_device_mesh("cpu", (2,)))
    else:
        DistributedDataParallel(scorer)
    mine = range(rank, len(PROMPTS), 2) if rank == 0 else range(1, 2)
    seeds = [3 * 1_000_003 + place * 3 + number for place in mine for number in range(3)]
    # The policy and itself make the policy; its weights are gathered twice.
    settings = SAMPLING | {"seed": seeds, "mix": LogitMix(scorer) if kind == "mixed" else None}
    found = generate(scorer, tokenizer, [PROMPTS[place] for place in mine], samples=3, batch_size=4, **settings)
    same(found, [expected[place * 3 + number] for place in mine for number in range(3)], 1e-4)
    return all(part.training for part in scorer.modules())


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "mixed"])
def test_ranks_share_the_work(kind):
    assert launch(distributed_job, kind) == [True, True]
