"""What is logged is the arithmetic of the batch's log-probabilities or scores, as TRL's trainers define it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Layout, PairBatch, Rows
from lit_align.core.kinds import PairwiseModule, pair_up
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import PairLogps, reduce_terms
from tests.cases import CASES
from tests.methods.scoring import collated, make_examples, ready, scored

PAIRWISE = [case for case in CASES if issubclass(getattr(lit_align, case.name), PairwiseModule)]


def pairs_of(module: AlignmentModule, batch: Any) -> tuple[PairLogps, PairLogps]:
    """Log-probabilities under policy and reference; zeros where there is none."""
    with torch.no_grad():
        policy = module.policy.sequence_logps(batch.rows)
    zero = policy._replace(sums=torch.zeros_like(policy.sums))
    reference = zero if module.reference is None else module.reference.logps(batch.rows)
    return pair_up(policy, batch), pair_up(reference, batch)


def tied(batch: PairBatch) -> PairBatch:
    """The first pair's responses are one."""
    return batch._replace(rejected=torch.cat([batch.chosen[:1], batch.rejected[1:]]))


@pytest.mark.parametrize("case", PAIRWISE, ids=lambda case: case.slug)
def test_metrics_of_pairs(case, tiny_model_dir):
    module = ready(case.name, tiny_model_dir, **case.values[0].kwargs)
    if type(module).rewards is not PairwiseModule.rewards:
        pytest.skip("its rewards are of another form, tested by themselves")
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    metrics = scored(module, batch).metrics
    policy, reference = pairs_of(module, batch)
    policy_, reference_ = (x.mean() if case.per_token else x for x in (policy, reference))
    chosen = module.beta * (policy_.chosen - reference_.chosen)
    rejected = module.beta * (policy_.rejected - reference_.rejected)
    expected = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).double().mean(),
        "logps/chosen": policy.chosen.mean(),
        "logps/rejected": policy.rejected.mean(),
        "nll_loss": -policy.chosen.sum() / policy.chosen_lengths.sum(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.item(), rel=1e-6), name


@pytest.mark.parametrize("case", PAIRWISE, ids=lambda case: case.slug)
def test_a_tie_is_not_accurate(case, tiny_model_dir):
    module = ready(case.name, tiny_model_dir)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    wins = [bool(chosen > rejected) for chosen, rejected in zip(*module.rewards(*pairs_of(module, batch)), strict=True)]
    assert scored(module, batch).metrics["rewards/accuracies"] == sum(wins) / 4
    assert scored(module, tied(batch)).metrics["rewards/accuracies"] == sum(wins[1:]) / 4


@pytest.mark.parametrize("per", ["tokens", "examples"])
def test_the_nll_of_orpo_covers_prompts_if_asked(per, tiny_model_dir):
    module = ready("ORPO", tiny_model_dir, nll_tokens="prompt_and_response", nll_per=per)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    metrics = scored(module, batch).metrics
    policy, _ = pairs_of(module, batch)
    nll, tokens = -policy.chosen - policy.prompt, policy.chosen_lengths + torch.tensor([6, 2, 10, 4])
    assert metrics["nll_loss"] == pytest.approx((nll.sum() / tokens.sum()).item(), rel=1e-6)
    expected = (nll / tokens).mean() if per == "examples" else nll.sum() / tokens.sum()
    term = reduce_terms({"nll": module.terms(batch)["nll"]}, batch.counts())
    torch.testing.assert_close(term.detach(), expected)


def test_metrics_of_labelled_completions(tiny_model_dir):
    module = ready("KTO", tiny_model_dir, beta=0.7)
    batch = collated(module, make_examples(DataKind.UNPAIRED)[:3], Layout.SHARED)
    metrics = scored(module, batch).metrics
    assert batch.label.tolist() == [False, True, False]
    policy, reference = module.policy.sequence_logps(batch.rows).sums, module.reference.logps(batch.rows).sums
    rewards = 0.7 * (policy - reference)
    assert metrics["rewards/chosen"] == pytest.approx(rewards[1].item(), rel=1e-6)
    assert metrics["rewards/rejected"] == pytest.approx((rewards[0] + rewards[2]).item() / 2, rel=1e-6)
    assert metrics["logps/chosen"] == pytest.approx(policy[1].item(), rel=1e-6)
    assert metrics["logps/rejected"] == pytest.approx((policy[0] + policy[2]).item() / 2, rel=1e-6)
    margin = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    assert module.derived_metrics(metrics) == {"rewards/margins": pytest.approx(margin)}


def test_the_kl_is_never_negative_and_counts_mismatched_completions_only(tiny_model_dir):
    module = ready("KTO", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.UNPAIRED), Layout.SHARED)

    def ratio(rows: Rows) -> torch.Tensor:
        return (module.policy.sequence_logps(rows).sums - module.reference.logps(rows).sums).mean()

    assert module.batch_kl(batch).item() == pytest.approx(ratio(batch.kl_rows).item(), rel=1e-6)
    assert module.batch_kl(batch) > 0
    # With policy and reference exchanged, log-ratios change their sign.
    policy, reference = (copy.deepcopy(scorer.state_dict()) for scorer in (module.policy, module.reference.scorer))
    module.policy.load_state_dict(reference)
    module.reference.scorer.load_state_dict(policy)
    assert module.batch_kl(batch) == 0
    # A batch without mismatched completions counts none of its own.
    assert ratio(batch.rows) > 0
    assert module.batch_kl(batch._replace(kl_rows=None)) == 0


def test_metrics_of_scores(tiny_model_dir):
    module = ready("BradleyTerry", tiny_model_dir)
    batch = tied(collated(module, make_examples(DataKind.PAIRS), Layout.PADDED))
    metrics = scored(module, batch).metrics
    scores = module.policy(batch.rows).detach()
    margins = scores[0::2] - scores[1::2]
    assert metrics["accuracy"] == (margins[1:] > 0).sum() / 4
    assert metrics["margin"] == pytest.approx(margins[1:].sum().item() / 4, rel=1e-6)
    assert metrics["mean_reward"] == pytest.approx(scores.mean().item(), rel=1e-6)
    assert metrics["min_reward"] == scores.min()
    assert metrics["max_reward"] == scores.max()


@pytest.mark.parametrize("layout", Layout)
def test_a_step_is_recorded_for_callbacks(layout, tiny_model_dir):
    module = ready("ORPO", tiny_model_dir, beta=0.7)
    examples = make_examples(DataKind.PAIRS)
    batch = collated(module, examples, layout)
    loss = module.training_step(batch, 0)
    terms = module.terms(batch)
    assert set(terms) == {"nll", "odds_ratio"}
    assert module.last_step.loss == loss.detach()
    torch.testing.assert_close(
        module.last_step.values, (terms["nll"].values + terms["odds_ratio"].values).detach(), rtol=1e-12, atol=0
    )
    assert module.last_step.source_rows.tolist() == [1, 2, 3, 4]
    # Every response counts with its prompt, whatever the layout spares or pads.
    assert module.num_tokens == sum(len(ids) for example in examples for ids in example.ids)
