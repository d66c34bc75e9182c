"""What must not matter to a method: padding, tokens that are not scored, neighbours, and the order of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Example, Layout
from lit_align.core.kinds import (
    LabelledRewardModule,
    LanguageModelModule,
    RewardModule,
    StepRewardModule,
    TokenRewardModule,
    UnpairedModule,
    list_up,
)
from lit_align.core.kinds.judged import align
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import PairLogps, PairValues, SequenceLogps, reduce_terms
from lit_align.functional.token_features import TokenFeature
from tests.cases import CASES, Case, Value
from tests.core.oracle import plain_logps, plain_rewards
from tests.methods.scoring import assert_same, collated, make_examples, named_terms, ready, scored, widened

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)


def reads_tokens(case: Case) -> bool:
    """Whether the method sees which tokens are scored: a head that is read at the last token does not."""
    method = getattr(lit_align, case.name)
    if issubclass(method, LabelledRewardModule):
        return method(policy="unused", **case.values[0].kwargs).every_token
    return method.head != "reward" or issubclass(method, TokenRewardModule)


by_reader_of_tokens = pytest.mark.parametrize("case", [*filter(reads_tokens, CASES)], ids=lambda case: case.slug)
by_layout = pytest.mark.parametrize("layout", Layout)
all_values = pytest.mark.parametrize(
    ("case", "value"),
    [pytest.param(case, value, id=f"{case.slug}-{i}") for case in CASES for i, value in enumerate(case.values)],
)


@pytest.fixture
def module(case: Case, tiny_model_dir) -> AlignmentModule:
    """The method with its row's first settings."""
    return ready(case.name, tiny_model_dir, **case.values[0].kwargs)


@pytest.fixture
def fixed_kl(monkeypatch) -> None:
    """The KL estimate belongs to a batch; here it is the same for all."""
    monkeypatch.setattr(UnpairedModule, "batch_kl", lambda self, batch: torch.tensor(0.3, dtype=torch.float64))


def plain_inputs(module: AlignmentModule, examples: list[Example]) -> tuple[Any, ...]:
    """Arguments of `losses` from plain Hugging Face models, response by response."""
    kind = module.data_kind
    if isinstance(module, RewardModule):
        return plain_scores(module, examples)
    if kind is DataKind.CONTEXTUAL:
        return logps(module.policy, side(examples, 0)), logps(module.reference.scorer, side(examples, 1))
    policy = logps(module.policy, examples, score_prompts=module.score_prompts)
    if kind is DataKind.DEMONSTRATIONS:
        return (policy._replace(tokens=None),)
    if module.reference is not None:
        reference = logps(module.reference.scorer, examples)
    else:
        reference = policy._replace(sums=torch.zeros_like(policy.sums))
    label = torch.tensor([bool(example.label) for example in examples])
    if kind is DataKind.UNPAIRED:
        kl = torch.zeros((), dtype=torch.float64)
        if module.needs_kl:
            other = exchanged(examples)
            kl = (logps(module.policy, other).sums - logps(module.reference.scorer, other).sums).mean().clamp(min=0)
        return policy, reference, label, kl.detach()
    if kind is DataKind.SCORED:
        return policy, reference, torch.tensor([example.scores[0] for example in examples], dtype=torch.float64)
    if kind is DataKind.RANKED:
        batch = collated(module, examples, Layout.PADDED)
        return list_up(policy, batch), list_up(reference, batch), batch.scores
    if kind is DataKind.JUDGED:
        batch = collated(module, examples, Layout.PADDED)
        return *(
            SequenceLogps(policy.sums[places], policy.lengths[places])
            for places in (batch.plain, torch.where(label, batch.plain, batch.judged))
        ), align(policy, batch), label  # fmt: skip
    if kind is DataKind.PARAPHRASED:
        sides = (SequenceLogps(policy.sums[k::2], policy.lengths[k::2]) for k in range(2))
        vectors = (plain_vectors(module, examples, k) for k in range(2))
        return *sides, *vectors, torch.eye(len(examples), dtype=torch.bool)
    return paired(policy, examples), paired(reference, examples)


def plain_scores(module: AlignmentModule, examples: list[Example]) -> tuple[Any, ...]:
    """The same of a method that trains a head."""
    kind = module.data_kind
    if isinstance(module, StepRewardModule):
        outputs = [steps[torch.tensor(mask).bool()] for steps, mask in of_tokens(module, examples)]
        labels = torch.tensor([label for example in examples for label in example.step_labels], dtype=torch.float64)
        return torch.cat(outputs) @ torch.tensor([-1.0, 1.0], dtype=torch.float64), labels
    if isinstance(module, TokenRewardModule):
        return compared_places(module, examples)
    label = torch.tensor([bool(example.label) for example in examples])
    if kind is DataKind.UNPAIRED and module.every_token:
        scores = [tokens[torch.tensor(mask).bool()] for tokens, mask in of_tokens(module, examples)]
        return torch.cat(scores), label.repeat_interleave(torch.tensor([len(single) for single in scores]))
    with module.policy.plain(), plain_head(module):
        scores = plain_rewards(module.policy.model, examples)
    if kind in (DataKind.PAIRS, DataKind.COMPARISONS):
        return scores[0::2], scores[1::2]
    if kind is DataKind.UNPAIRED:
        return scores, label
    if kind is DataKind.RATED:
        return scores, torch.tensor([example.ratings for example in examples], dtype=torch.float64)
    batch = collated(module, examples, Layout.PADDED)
    return torch.where(batch.mask, scores[batch.places], 0.0), batch.scores, batch.mask


def of_tokens(module: AlignmentModule, examples: list[Example]) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """For each response, what a plain model says at each token of the completion, and which tokens are scored."""
    model = module.policy.model
    for example in examples:
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True)):
            with module.policy.plain():
                if module.head == "tokens":
                    outputs = model(input_ids=torch.tensor([ids])).logits[0, prompt:]
                else:
                    # A sequence classifier says it of the last token of whatever it is given.
                    ends = range(prompt + 1, len(ids) + 1)
                    outputs = torch.cat([model(input_ids=torch.tensor([ids[:end]])).logits[0] for end in ends])
            yield outputs, example.masks[k] if example.masks else [1] * (len(ids) - prompt)


def compared_places(module: AlignmentModule, examples: list[Example]) -> tuple[torch.Tensor, ...]:
    """Scores of pairs [B, T] and the places from the first difference on where both have a scored token."""
    responses = list(of_tokens(module, examples))
    width = max(len(scores) for scores, _ in responses)
    tables = torch.zeros(2, len(examples), width, dtype=torch.float64)
    mask = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, example in enumerate(examples):
        differs = False
        for place in range(width):
            tokens = []
            for k in range(2):
                scores, scored = responses[2 * row + k]
                there = place < len(scores) and scored[place]
                tokens.append(example.ids[k][example.prompt_lengths[k] + place] if there else None)
                if there:
                    tables[k, row, place] = scores[place]
            differs = differs or tokens[0] != tokens[1]
            mask[row, place] = differs and None not in tokens
    return tables[0], tables[1], mask


@contextmanager
def plain_head(module: AlignmentModule) -> Iterator[None]:
    """The head's rows as ODIN has them, centred and of unit length, for a while."""
    weight = module.policy.model.score.weight
    before = weight.data.clone()
    if module.normalised_head:
        for row in weight.data:
            row -= row.mean()
            row /= row.square().sum().sqrt()
    yield
    weight.data.copy_(before)


def plain_overlap(module: AlignmentModule) -> torch.Tensor:
    """Cosine of the first two rows, without its sign."""
    one, two = (row - row.mean() for row in module.policy.model.score.weight.detach())
    return (one @ two).abs() / (one @ one).sqrt() / (two @ two).sqrt()


def plain_facts(module: AlignmentModule, examples: list[Example]) -> dict[str, Any]:
    """Keyword arguments of `losses`; features of tokens from the logits of plain models."""
    if isinstance(module, RewardModule):
        batch = collated(module, examples, Layout.PADDED)
        facts = {name: getattr(batch, name) for name in module.reads}
        return facts | {"overlap": plain_overlap(module)} if module.normalised_head else facts
    if not isinstance(module, LanguageModelModule):
        return {}
    facts = module.facts(collated(module, examples, Layout.PADDED))
    for name, feature in module.token_features.items():
        sums = torch.stack([*plain_features(module, feature, examples)])
        pairs = module.data_kind is DataKind.PAIRS
        facts[name] = PairValues(sums[0::2], sums[1::2]) if pairs else sums
    return facts


def plain_features(module: AlignmentModule, feature: TokenFeature, examples: list[Example]) -> Iterator[torch.Tensor]:
    """The sums of a feature over the scored tokens of each response."""
    for example in examples:
        contextual = module.data_kind is DataKind.CONTEXTUAL
        for k in range(1 if contextual else len(example.ids)):
            logits, target = plain_logits(module.policy, example, k)
            reference = None
            if feature.needs_reference:
                with torch.no_grad():
                    reference, _ = plain_logits(module.reference.scorer, example, 1 if contextual else k)
                reference = reference.log_softmax(-1)
            yield feature(logits, target, reference).double().sum()


def plain_logits(scorer: Any, example: Example, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the scored tokens of response k, and these tokens."""
    ids, prompt = example.ids[k], example.prompt_lengths[k]
    mask = torch.tensor(example.masks[k] if example.masks else [1] * (len(ids) - prompt)).bool()
    row = torch.tensor([ids])
    with scorer.plain():
        return scorer.model(input_ids=row).logits[0, prompt - 1 : -1][mask], row[0, prompt:][mask]


def side(examples: list[Example], k: int) -> list[Example]:
    """The examples with their k-th response only."""
    return [
        example._replace(
            ids=[example.ids[k]],
            prompt_lengths=[example.prompt_lengths[k]],
            masks=None if example.masks is None else [example.masks[k]],
        )
        for example in examples
    ]


def plain_vectors(module: AlignmentModule, examples: list[Example], k: int) -> torch.Tensor:
    """Mean final hidden states of the prompts."""
    vectors = []
    for example in examples:
        prompt = example.ids[k][: example.prompt_lengths[k]]
        with module.policy.plain():
            hidden = module.policy.model.model(input_ids=torch.tensor([prompt])).last_hidden_state[0]
        vectors.append(hidden[-1] if module.pooling == "last" else hidden.mean(0))
    return torch.stack(vectors)


def logps(scorer: Any, examples: list[Example], score_prompts: bool = False) -> SequenceLogps:
    """Sums, lengths and tokens of the responses, and of the prompts behind them if those are scored."""
    with scorer.plain():
        tokens, sums = plain_logps(scorer.model, examples, score_prompts)
    lengths = [
        sum(example.masks[k]) if example.masks else len(ids) - prompt
        for example in examples
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True))
    ]
    lengths += [example.prompt_lengths[0] - 1 for example in examples] if score_prompts else []
    return SequenceLogps(sums, torch.tensor(lengths), tokens)


def paired(logps: SequenceLogps, examples: list[Example]) -> PairLogps:
    """Chosen and rejected in turns; what is left belongs to the prompts."""
    count = 2 * len(examples)
    sums, lengths = logps.sums, logps.lengths
    pairs = PairLogps(sums[0:count:2], sums[1:count:2], lengths[0:count:2], lengths[1:count:2])
    if len(sums) > count:
        pairs = pairs._replace(prompt=sums[count:], prompt_lengths=lengths[count:])
    if logps.tokens is None:
        return pairs
    single = logps.tokens.split(lengths.tolist())
    public = [
        [single[2 * i + k][: min(lengths[2 * i], lengths[2 * i + 1])].double().sum() for i in range(len(examples))]
        for k in range(2)
    ]
    return pairs._replace(chosen_public=torch.stack(public[0]), rejected_public=torch.stack(public[1]))


def exchanged(examples: list[Example]) -> list[Example]:
    """Each prompt with the completion of the next example."""
    return [
        own._replace(ids=[own.ids[0][: own.prompt_lengths[0]] + other.ids[0][other.prompt_lengths[0] :]],
                     masks=other.masks)
        for own, other in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]  # fmt: skip


@all_values
def test_the_loss_is_that_of_plain_models(case: Case, value: Value, tiny_model_dir):
    if value.kwargs.get("k", 1) > 1:
        pytest.skip("the layouts draw other tokens")
    if value.kwargs.get("standardise"):
        pytest.skip("the batch's ratings are taken in before `losses`; tested by itself")
    examples = make_examples(getattr(lit_align, case.name).data_kind)
    for layout in Layout:
        # A new module each time: some keep running means of the batches that they have seen.
        module = ready(case.name, tiny_model_dir, **value.kwargs)
        losses = named_terms(module, plain_inputs(module, examples), plain_facts(module, examples))
        module = ready(case.name, tiny_model_dir, **value.kwargs)
        batch = collated(module, examples, layout)
        expected = reduce_terms(losses, batch.counts())
        torch.testing.assert_close(scored(module, batch).loss, expected.detach(), rtol=1e-6, atol=1e-7)


@by_slug
def test_padding_changes_nothing(case: Case, module):
    examples = make_examples(module.data_kind)
    batch = collated(module, examples, Layout.PADDED)
    expected = scored(module, batch)
    assert_same(scored(module, collated(module, examples, Layout.PADDED, pad_id=77)), expected)
    wide = batch._replace(rows=widened(batch.rows, 9, token=2))
    if module.needs_kl:
        wide = wide._replace(kl_rows=widened(batch.kl_rows, 5, token=2))
    assert_same(scored(module, wide), expected)


@by_reader_of_tokens
@by_layout
def test_tokens_after_the_last_scored_one_change_nothing(case: Case, layout: Layout, module):
    """A user's last turn, say: it is masked, and nothing that is scored sees it."""
    examples = make_examples(module.data_kind)
    longer = [
        example._replace(
            ids=[[*ids, 9, 8, 7] for ids in example.ids],
            masks=[
                [*(example.masks[k] if example.masks else [1] * (len(ids) - prompt)), 0, 0, 0]
                for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True))
            ],
        )
        for example in examples
    ]
    expected = scored(module, collated(module, examples, layout))
    assert_same(scored(module, collated(module, longer, layout)), expected)


@by_reader_of_tokens
@by_layout
def test_a_mask_changes_the_loss_of_its_own_example_only(case: Case, layout: Layout, module, fixed_kl):
    if case.couples:
        pytest.skip("examples of a batch are compared with each other")
    masked = scored(module, collated(module, make_examples(module.data_kind), layout)).values
    whole = scored(module, collated(module, make_examples(module.data_kind, masked=False), layout)).values
    assert torch.isclose(masked, whole, rtol=1e-7).tolist() == [True, False, True, True]


@by_slug
@by_layout
def test_a_longer_neighbour_changes_no_other_loss(case: Case, layout: Layout, module, fixed_kl):
    if case.couples:
        pytest.skip("examples of a batch are compared with each other")
    examples = make_examples(module.data_kind)
    masks = examples[0].masks and [[*mask, *[0] * 30] for mask in examples[0].masks]
    long = examples[0]._replace(row=9, ids=[[*ids, *range(20, 50)] for ids in examples[0].ids], masks=masks)
    alone = scored(module, collated(module, examples, layout)).values
    together = scored(module, collated(module, [*examples, long], layout)).values
    torch.testing.assert_close(together[:-1], alone, rtol=1e-7, atol=1e-7)


@by_slug
@by_layout
def test_the_order_of_examples_changes_nothing(case: Case, layout: Layout, module, fixed_kl):
    examples = make_examples(module.data_kind)
    expected = scored(module, collated(module, examples, layout))
    reversed_ = scored(module, collated(module, examples[::-1], layout))
    assert_same(reversed_._replace(values=reversed_.values.flip(0)), expected)


def test_the_kl_of_kto_follows_the_circle_of_the_batch(tiny_model_dir):
    """Each prompt takes the next example's completion: turning the batch changes nothing, turning it round does."""
    module = ready("KTO", tiny_model_dir)
    examples = make_examples(DataKind.UNPAIRED)
    expected = scored(module, collated(module, examples, Layout.SHARED))
    turned = scored(module, collated(module, examples[2:] + examples[:2], Layout.SHARED))
    assert expected.metrics["kl"] > 0
    assert_same(turned._replace(values=turned.values.roll(2)), expected)
    reversed_ = scored(module, collated(module, examples[::-1], Layout.SHARED))
    assert reversed_.metrics["kl"] != pytest.approx(expected.metrics["kl"], rel=1e-3)


def test_the_kl_of_kto_passes_no_gradient(tiny_model_dir):
    module = ready("KTO", tiny_model_dir)
    kl = module.batch_kl(collated(module, make_examples(DataKind.UNPAIRED), Layout.SHARED))
    assert kl > 0
    assert not kl.requires_grad
