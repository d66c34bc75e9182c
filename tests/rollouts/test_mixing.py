"""Two models that write together: the mixture of the paper, token by token, with a cache for each."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.policy import PolicySpec
from lit_align.references.adapters_off import AdaptersOff
from lit_align.references.frozen_copy import FrozenCopy
from lit_align.references.named_adapter import NamedAdapter
from lit_align.references.none import NoReference
from lit_align.rollouts.hf import generate
from lit_align.rollouts.mixing import LogitMix, mixed
from lit_align.rollouts.sampling import Drawing, Sampler
from tests.helpers import build_tiny_tokenizer, tiny_model

PROMPTS = ["a", "The quick brown fox", "jumps over"]
PAIR = ((0.351371685289, 0.260302546694, 0.388325768017), (0.5, 0.3, 0.2))
VECTORS = [
    (1.5, -0.5, 1.0, (0.273209439746, 0.224899017757, 0.501891542497)),
    (0.5, 0.5, 1.0, (0.428893021327, 0.285943634266, 0.285163344407)),
    (1.5, -0.5, 0.7, (0.24146953798, 0.18286746054, 0.57566300148)),
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer()


def other_model(**changes):
    model = tiny_model(dtype=torch.float64, **changes)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def drawn(policy, other, weights, temperature):
    """Distribution that the sampler draws from."""
    logits = mixed(
        torch.tensor([policy], dtype=torch.float64).log(), torch.tensor([other], dtype=torch.float64).log(), weights
    )
    return (logits / temperature).softmax(-1)[0].tolist()


@pytest.mark.parametrize(("policy", "reference", "temperature", "expected"), VECTORS)
def test_vectors(policy, reference, temperature, expected):
    weights = LogitMix(torch.nn.Identity(), policy, reference)
    assert drawn(*PAIR, weights, temperature) == pytest.approx(expected, rel=1e-9)


def test_vectors_are_those_of_the_specification(shared_dir):
    rows = json.loads((shared_dir / "vectors" / "offline_robust.json").read_text())
    rows = rows if isinstance(rows, list) else next(value for value in rows.values() if isinstance(value, list))
    found = [row for row in rows if row["method"] == "sampler_logit_mix"]
    assert [tuple(row["hyperparameters"].values()) for row in found] == [vector[:3] for vector in VECTORS]
    assert [tuple(row["expected"]["mixed_probs"]) for row in found] == [vector[3] for vector in VECTORS]
    assert all((*map(tuple, row["inputs"].values()),) == PAIR for row in found)


@pytest.mark.parametrize(("policy", "reference", "temperature", "expected"), VECTORS)
def test_the_sampler_draws_from_the_mixture(policy, reference, temperature, expected):
    count = 4000
    weights = LogitMix(torch.nn.Identity(), policy, reference)
    other = torch.tensor(PAIR[1]).double().log()
    sampler = Sampler(range(count), Drawing(temperature), lambda ids, scores: mixed(scores, other, weights))
    tokens = sampler(torch.zeros(count, 1), torch.tensor(PAIR[0]).double().log().expand(count, 3)).argmax(-1)
    found = torch.bincount(tokens, minlength=3) / count
    assert (found - torch.tensor(expected)).abs().max() < 4 * 0.5 / count**0.5


def by_hand(policy, other, ids, steps):
    """Greedy decoding from mixed logits without caches."""
    new = []
    with torch.no_grad():
        while len(new) < steps and 2 not in new:
            row = torch.tensor([ids + new])
            logits = 1.5 * policy(row).logits[0, -1].float() - 0.5 * other(row).logits[0, -1]
            new.append(int(logits.argmax()))
    return new


@pytest.mark.parametrize("samples", [1, 2])
def test_greedy_equals_one_token_at_a_time(tokenizer, samples):
    policy, other = tiny_model(dtype=torch.float64), other_model()
    found = generate(policy, tokenizer, PROMPTS, samples=samples, max_new_tokens=9, logps=True, mix=LogitMix(other))
    plain = generate(policy, tokenizer, PROMPTS, max_new_tokens=9)
    assert [one.ids for one in found[::samples]] != [one.ids for one in plain]
    for number, one in enumerate(found):
        ids = tokenizer(PROMPTS[number // samples])["input_ids"]
        assert one.ids == by_hand(policy, other, ids, 9)
        with torch.no_grad():
            every = policy(torch.tensor([ids + one.ids])).logits[0].log_softmax(-1)
        own = [float(every[len(ids) - 1 + n, token]) for n, token in enumerate(one.ids)]
        assert one.logps == pytest.approx(own, abs=1e-9), "the policy's own, not the mixture's"


def test_samples_do_not_depend_on_the_batch(tokenizer):
    settings = {"max_new_tokens": 8, "temperature": 0.7, "samples": 3, "mix": LogitMix(Scorer(other_model()), 0.5, 0.5)}
    policy = tiny_model(dtype=torch.float64)
    expected = generate(policy, tokenizer, PROMPTS, batch_size=9, **settings)
    for size in (1, 2, 6):
        assert generate(policy, tokenizer, PROMPTS, batch_size=size, **settings) == expected


def test_equal_models_change_nothing(tokenizer):
    policy = tiny_model(dtype=torch.float64)
    settings = {"max_new_tokens": 8, "temperature": 0.9}
    plain = generate(policy, tokenizer, PROMPTS, **settings)
    assert generate(policy, tokenizer, PROMPTS, mix=LogitMix(tiny_model(dtype=torch.float64)), **settings) == plain


def test_truncation_goes_by_the_policy():
    """A mixture may lift a token that the policy finds all but impossible."""
    policy = torch.tensor([[3.0, 2.0, -4.0]])
    other = torch.tensor([[3.0, 2.0, -40.0]])
    weights = LogitMix(torch.nn.Identity(), 1.5, -0.5)
    assert int(mixed(policy, other, weights).argmax()) == 2
    sampler = Sampler([0], Drawing(0.0, top_p=0.99), lambda ids, scores: mixed(scores, other, weights))
    assert int(sampler(torch.zeros(1, 1), policy).argmax()) == 0


def test_what_either_model_rules_out_stays_out():
    policy, other = torch.tensor([[0.0, -torch.inf, 0.0]]), torch.tensor([[0.0, 0.0, -torch.inf]])
    found = mixed(policy, other, LogitMix(torch.nn.Identity(), 1.5, -0.5))
    assert found.tolist() == [[0.0, -torch.inf, -torch.inf]]


def adapted():
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(dtype=torch.float64), LoraConfig(target_modules="all-linear"))
    return Scorer(model).train()


def perturb(scorer):
    with torch.no_grad():
        for name, parameter in scorer.named_parameters():
            if "lora_B.default" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", [AdaptersOff, NamedAdapter, FrozenCopy])
def test_the_reference_of_a_method(kind, tokenizer):
    """Also where it is the policy itself, switched over."""
    scorer = adapted()
    reference = kind()
    reference.build(scorer, PolicySpec("tiny"))
    perturb(scorer)
    trainable = [name for name, parameter in scorer.named_parameters() if parameter.requires_grad]
    settings = {"max_new_tokens": 8, "logps": True, "samples": 2}
    found = generate(scorer, tokenizer, PROMPTS, mix=LogitMix.with_reference(reference), **settings)
    assert [name for name, parameter in scorer.named_parameters() if parameter.requires_grad] == trainable
    assert scorer.model.training
    expected = generate(scorer, tokenizer, PROMPTS, mix=LogitMix(tiny_model(dtype=torch.float64)), **settings)
    assert [one.ids for one in found] == [one.ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-9)
    assert found != generate(scorer, tokenizer, PROMPTS, **settings)


def test_models_that_cannot_be_mixed(tokenizer):
    policy = tiny_model(dtype=torch.float64)
    with pytest.raises(ConfigError, match="same vocabulary"):
        generate(policy, tokenizer, PROMPTS, mix=LogitMix(tiny_model(vocab_size=300)))
    with pytest.raises(ConfigError, match="cannot have a say"):
        generate(policy, tokenizer, PROMPTS, mix=LogitMix(torch.nn.Identity()))
    with pytest.raises(ConfigError, match="weight: nan"):
        generate(policy, tokenizer, PROMPTS, mix=LogitMix(policy, 1.5, float("nan")))
    with pytest.raises(ConfigError, match="no model to write with"):
        LogitMix.with_reference(NoReference())
