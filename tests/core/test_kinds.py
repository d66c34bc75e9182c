"""What each kind of method is given, and what it passes back to the weights, is that of plain Hugging Face models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_align.core.batch import DataKind, Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import (
    ContextualModule,
    JudgedModule,
    ListwiseModule,
    PairwiseModule,
    ParaphrasedModule,
    ScoredModule,
    UnpairedModule,
)
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import SequenceLogps
from lit_align.core.policy import LoRASpec
from lit_align.functional.token_features import Contrast, ForwardKL, LogCollision, TokenFeature
from tests.methods.scoring import collated, make_examples, ready, scored
from tests.methods.test_invariances import plain_inputs

by_layout = pytest.mark.parametrize("layout", Layout)


def combination(x: Any) -> Tensor:
    """One number that depends on all numbers in `x`, each in its own way."""

    def numbers(x: Any) -> Iterator[Tensor]:
        if isinstance(x, SequenceLogps):
            x = x._replace(tokens=None)
        if isinstance(x, tuple):
            for part in x:
                yield from numbers(part)
        elif isinstance(x, Tensor):
            yield x.double().flatten()

    flat = torch.cat([*numbers(x)])
    return (flat * torch.arange(1.0, len(flat) + 1, dtype=torch.float64).cos()).sum()


class Combined:
    """A method whose loss is the combination of what it is given."""

    def losses(self, *args: Any) -> Tensor:
        size = len(getattr(args[0], "sums", args[0][0]))
        return combination(args).expand(size) / size


class CombinedPairs(Combined, PairwiseModule):
    needs_public = True


class CombinedLists(Combined, ListwiseModule): ...


class CombinedLabels(Combined, UnpairedModule): ...


class CombinedScores(Combined, ScoredModule): ...


class CombinedJudgments(Combined, JudgedModule): ...


class CombinedParaphrases(Combined, ParaphrasedModule): ...


class CombinedContexts(Combined, ContextualModule): ...


class CombinedLastStates(Combined, ParaphrasedModule):
    pooling = "last"


def flat_gradients(loss: Tensor, module: AlignmentModule) -> Tensor:
    """Gradient of a loss in all trained weights."""
    trained = [p for p in module.policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return torch.cat([g.flatten() for g in gradients if g is not None])


def assert_gradients_agree(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@by_layout
@pytest.mark.parametrize("cls", Combined.__subclasses__())
def test_a_kind_is_given_what_plain_models_compute(cls, layout, tiny_model_dir):
    module = ready(cls, tiny_model_dir)
    examples = make_examples(module.data_kind)
    got = scored(module, collated(module, examples, layout))
    plain = combination(plain_inputs(module, examples)) / len(got.values)
    torch.testing.assert_close(got.loss, plain.detach(), rtol=1e-6, atol=1e-7)
    assert_gradients_agree(got.gradient, flat_gradients(plain, module))


def test_equal_prompts_are_known(tiny_model_dir):
    given = []

    class Same(ParaphrasedModule):
        def losses(self, original: Any, *args: Any) -> Tensor:
            given.append(args[-1])
            return -original.sums

    module = ready(Same, tiny_model_dir)
    first, second, third, _ = make_examples(DataKind.PARAPHRASED)
    module.terms(collated(module, [first, second, first._replace(row=9), third], Layout.SHARED))
    assert given[0].tolist() == [[True, False, True, False], [False, True, False, False],
                                 [True, False, True, False], [False, False, False, True]]  # fmt: skip


def test_judgments_of_desirable_completions_only(tiny_model_dir):
    """Nothing is blamed where nothing is undesirable, and there is no error either."""
    module = ready("CUT", tiny_model_dir)
    good = [example for example in make_examples(DataKind.JUDGED) if example.label]
    values = scored(module, collated(module, good, Layout.SHARED)).values
    texts = module.policy.sequence_logps(collated(module, good, Layout.SHARED).rows)
    torch.testing.assert_close(values, -texts.means.detach())


def test_a_score_and_a_reward_that_agree_correlate(tiny_model_dir):
    module = ready(CombinedScores, tiny_model_dir)
    moments = {"rewards/mean": 2.0, "scores/mean": 1.0, "rewards/squares": 5.0, "scores/squares": 1.25}
    means = moments | {"rewards/products": 2.5}
    assert module.derived_metrics(means) == {"rewards/correlation": pytest.approx(1.0)}
    assert sorted(means) == ["rewards/mean", "scores/mean"]
    still = moments | {"rewards/squares": 4.0, "rewards/products": 2.0}
    assert module.derived_metrics(still) == {"rewards/correlation": 0.0}


# -------------------------------------------------------------------- features of tokens

FEATURES: dict[str, TokenFeature] = {
    "forward_kl": ForwardKL(), "log_collision": LogCollision(), "contrast": Contrast(1),
    "contrast without the other": Contrast(1, detach=True),
}  # fmt: skip
LORA = LoRASpec(r=4)
WHOLE_HEAD = LoRASpec(r=4, modules_to_save=("lm_head",))
REFERENCES: dict[str, tuple[str, LoRASpec | None]] = {
    "frozen_copy": ("frozen_copy", None),
    "frozen_copy of adapters": ("frozen_copy", LORA),
    "adapters_off": ("adapters_off", LORA),
    "named_adapter": ("named_adapter", LORA),
    "adapters_off beside a whole head": ("adapters_off", WHOLE_HEAD),
    "named_adapter beside a whole head": ("named_adapter", WHOLE_HEAD),
}


class Featured(PairwiseModule):
    """A method whose loss is a feature and the log-probabilities."""

    feature: TokenFeature

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        return {"feature": self.feature}

    def losses(self, policy: Any, reference: Any, feature: Any) -> Tensor:
        return combination((policy.chosen, policy.rejected, *feature)).expand(len(policy.chosen)) / len(policy.chosen)


def plain_feature_loss(module: Featured, examples: list[Example]) -> Tensor:
    """The same from the logits of plain models."""
    feature, columns = module.feature, ([], [], [], [])
    for example in examples:
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True)):
            row = torch.tensor([ids])
            mask = torch.tensor(example.masks[k] if example.masks else [1] * (len(ids) - prompt)).bool()
            targets = row[0, prompt:][mask]
            with torch.no_grad(), as_reference(module) as model:
                reference = model(input_ids=row).logits[0, prompt - 1 : -1][mask].log_softmax(-1)
            with module.policy.plain():
                logits = module.policy.model(input_ids=row).logits[0, prompt - 1 : -1][mask]
            columns[k].append(logits.log_softmax(-1).gather(-1, targets[:, None]).sum())
            columns[2 + k].append(feature(logits, targets, reference).sum())
    return combination(tuple(map(torch.stack, columns))) / len(examples)


class as_reference(AbstractContextManager):
    """The plain model that a reference stands for."""

    def __init__(self, module: Featured) -> None:
        self.reference, policy = module.reference, module.policy
        self.scorer = getattr(self.reference, "scorer", policy)
        self.contexts = [getattr(self.reference, "_switched", nullcontext)(), self.scorer.plain()]

    def __enter__(self) -> Any:
        for context in self.contexts:
            context.__enter__()
        return self.scorer.model

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def assert_feature_is_that_of_plain_models(module: Featured, layout: Layout) -> None:
    examples = make_examples(DataKind.PAIRS)
    got = scored(module, collated(module, examples, layout))
    expected = plain_feature_loss(module, examples)
    torch.testing.assert_close(got.loss, expected.detach(), rtol=1e-6, atol=1e-7)
    assert_gradients_agree(got.gradient, flat_gradients(expected, module))


@by_layout
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_that_of_plain_logits(name, layout, tiny_model_dir):
    module = ready(Featured, tiny_model_dir)
    module.feature = FEATURES[name]
    assert_feature_is_that_of_plain_models(module, layout)


@pytest.mark.parametrize("name", ["forward_kl", "contrast"])
@pytest.mark.parametrize("layout", [Layout.PADDED, Layout.SHARED])
def test_a_feature_under_activation_checkpointing(name, layout, tiny_model_dir):
    module = ready(Featured, tiny_model_dir, activation_checkpointing=True)
    module.feature = FEATURES[name]
    assert any(getattr(part, "gradient_checkpointing", False) for part in module.policy.modules())
    assert_feature_is_that_of_plain_models(module, layout)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_divergence_from_every_kind_of_reference(name, checkpointing, tiny_model_dir):
    reference, lora = REFERENCES[name]
    module = ready(Featured, tiny_model_dir, reference=reference, lora=lora, activation_checkpointing=checkpointing)
    module.feature = ForwardKL()
    trained = [n for n, p in module.policy.named_parameters() if p.requires_grad]
    assert_feature_is_that_of_plain_models(module, Layout.SHARED)
    assert [n for n, p in module.policy.named_parameters() if p.requires_grad] == trained


def test_a_divergence_from_itself_is_zero(tiny_model_dir):
    module = ready("NPO", tiny_model_dir, moved=False, retain_weight=0.0, kl_weight=1.0)
    values = module.terms(collated(module, make_examples(DataKind.UNPAIRED), Layout.SHARED))["divergence"].values
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", REFERENCES)
def test_distributions_of_the_reference_go_with_their_batch(name, tiny_model_dir):
    """They hold the hidden states of all tokens, and a head's weights where these are sharded."""
    reference, lora = REFERENCES[name]
    module = ready("TDPO1", tiny_model_dir, reference=reference, lora=lora)
    module.terms(collated(module, make_examples(DataKind.PAIRS), Layout.SHARED))
    scorers = [module.policy, getattr(module.reference, "scorer", module.policy), module.reference]
    assert [scorer.distribution for scorer in scorers] == [None] * 3


def test_a_divergence_needs_a_whole_reference(tiny_model_dir):
    module = ready("NPO", tiny_model_dir, reference="none", kl_weight=1.0)
    with pytest.raises(ConfigError, match=r"(?s)NPO compares whole distributions.*NoReference.*frozen_copy"):
        module.terms(collated(module, make_examples(DataKind.UNPAIRED), Layout.SHARED))


# Logits at two bad tokens, 1 and 4, of a vocabulary of five.
LOGITS = torch.tensor([[1.0, 3.0, 2.0, 0.0, -1.0], [0.5, 0.2, 2.5, 1.5, 0.0]], dtype=torch.float64)
TOKENS = torch.tensor([1, 4])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_likeliest_other_token_contrasts():
    values = Contrast(1)(LOGITS, TOKENS, None)
    assert values.tolist() == pytest.approx([softplus(3 - 2), softplus(0 - 2.5)], rel=1e-12)


def test_the_contrast_is_drawn_from_the_likeliest_others():
    """With three candidates, by the softmax of their logits; never the token itself."""
    torch.manual_seed(0)
    draws = 20_000
    values = Contrast(3)(LOGITS[:1].expand(draws, -1), TOKENS[:1].expand(draws), None)
    counts = Counter(round(value, 9) for value in values.tolist())
    others = [2.0, 1.0, 0.0]
    weights = [math.exp(x) / sum(map(math.exp, others)) for x in others]
    assert {*counts} == {round(softplus(3 - x), 9) for x in others}
    for x, weight in zip(others, weights, strict=True):
        assert counts[round(softplus(3 - x), 9)] / draws == pytest.approx(weight, abs=0.02)


@pytest.mark.parametrize("k", [4, 50])
def test_a_vocabulary_smaller_than_the_candidates(k):
    assert torch.isfinite(Contrast(k)(LOGITS, TOKENS, None)).all()


@pytest.mark.parametrize("detach", [False, True])
def test_the_other_tokens_gradient(detach):
    logits = LOGITS.clone().requires_grad_()
    Contrast(1, detach=detach)(logits, TOKENS, None).sum().backward()
    slopes = [1 / (1 + math.exp(-(3 - 2))), 1 / (1 + math.exp(2.5))]
    expected = torch.zeros_like(LOGITS)
    expected[[0, 1], [1, 4]] = torch.tensor(slopes, dtype=torch.float64)
    if not detach:
        expected[[0, 1], [2, 2]] = -torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probabilities_beside_features_are_those_without(dtype, tiny_model_dir):
    """So that policy and reference, of which one has features, agree at the start to the last bit."""
    module = ready("WPO", tiny_model_dir, dtype=dtype)
    rows = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED).rows
    alone, beside = module.policy(rows), module.policy(rows, features=(LogCollision(),))
    assert torch.equal(beside[:, 0], alone)
    gradients = []
    for values in (alone, beside[:, 0]):
        module.zero_grad()
        values.sum().backward()
        gradients.append(module.policy.model.lm_head.weight.grad.clone())
    assert torch.equal(*gradients)
