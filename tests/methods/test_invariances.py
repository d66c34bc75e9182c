"""What must not matter to a method: padding, tokens that are not scored, neighbours, and the order of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_align.core.batch import DataKind, Example, Layout
from lit_align.core.kinds import UnpairedModule, as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import PairLogps, SequenceLogps, reduce_terms
from tests.cases import CASES, Case, Value
from tests.core.oracle import plain_logps, plain_rewards
from tests.methods.scoring import assert_same, collated, make_examples, ready, scored, widened

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
by_language_model = pytest.mark.parametrize(
    # A scalar head reads the last token, whatever is masked.
    "case",
    [case for case in CASES if case.slug != "bradley_terry"],
    ids=lambda case: case.slug,
)
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
    if module.head == "reward":
        with module.policy.plain():
            scores = plain_rewards(module.policy.model, examples)
        return scores[0::2], scores[1::2], torch.tensor([example.margins[0] for example in examples])
    policy = logps(module.policy, examples, score_prompts=module.score_prompts)
    reference = logps(module.reference.scorer, examples) if module.reference is not None else None
    if module.data_kind is DataKind.DEMONSTRATIONS:
        return (policy,)
    if module.data_kind is DataKind.UNPAIRED:
        other = exchanged(examples)
        kl = (logps(module.policy, other).sums - logps(module.reference.scorer, other).sums).mean().clamp(min=0)
        return policy, reference, torch.tensor([example.label for example in examples]), kl.detach()
    pairs = paired(policy, len(examples))
    return pairs, pairs if reference is None else paired(reference, len(examples))


def logps(scorer: Any, examples: list[Example], score_prompts: bool = False) -> SequenceLogps:
    """Sums and lengths of the responses, and of the prompts behind them if those are scored."""
    with scorer.plain():
        _, sums = plain_logps(scorer.model, examples, score_prompts)
    lengths = [
        sum(example.masks[k]) if example.masks else len(ids) - prompt
        for example in examples
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True))
    ]
    lengths += [example.prompt_lengths[0] - 1 for example in examples] if score_prompts else []
    return SequenceLogps(sums, torch.tensor(lengths))


def paired(logps: SequenceLogps, count: int) -> PairLogps:
    """Chosen and rejected in turns; what is left belongs to the prompts."""
    (sums, prompts), (lengths, prompt_lengths) = ((x[: 2 * count], x[2 * count :]) for x in (logps.sums, logps.lengths))
    pairs = PairLogps(sums[0::2], sums[1::2], lengths[0::2], lengths[1::2])
    return pairs._replace(prompt=prompts, prompt_lengths=prompt_lengths) if len(prompts) else pairs


def exchanged(examples: list[Example]) -> list[Example]:
    """Each prompt with the completion of the next example."""
    return [
        own._replace(ids=[own.ids[0][: own.prompt_lengths[0]] + other.ids[0][other.prompt_lengths[0] :]],
                     masks=other.masks)
        for own, other in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]  # fmt: skip


@all_values
def test_the_loss_is_that_of_plain_models(case: Case, value: Value, tiny_model_dir):
    module = ready(case.name, tiny_model_dir, **value.kwargs)
    examples = make_examples(module.data_kind)
    losses = as_terms(module.losses(*plain_inputs(module, examples)))
    for layout in Layout:
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


@by_language_model
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


@by_language_model
@by_layout
def test_a_mask_changes_the_loss_of_its_own_example_only(case: Case, layout: Layout, module, fixed_kl):
    masked = scored(module, collated(module, make_examples(module.data_kind), layout)).values
    whole = scored(module, collated(module, make_examples(module.data_kind, masked=False), layout)).values
    assert torch.isclose(masked, whole, rtol=1e-7).tolist() == [True, False, True, True]


@by_slug
@by_layout
def test_a_longer_neighbour_changes_no_other_loss(case: Case, layout: Layout, module, fixed_kl):
    examples = make_examples(module.data_kind)
    long = examples[0]._replace(row=9, ids=[[*ids, *range(20, 50)] for ids in examples[0].ids])
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
