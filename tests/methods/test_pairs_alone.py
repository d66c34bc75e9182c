"""What is particular to methods on pairs without a reference, beyond their rows in `tests/cases/pairs_alone.py`."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Layout
from lit_align.core.outputs import PairValues
from lit_align.methods.alpha_po import alpha_reward
from tests.cases.pairs_alone import CASES
from tests.cases.row import P2, t
from tests.methods.scoring import collated, make_examples, ready, scored


@pytest.mark.parametrize("alpha", [-1.0, -0.25, 0.25, 1.0])
def test_alpha_rewards_rise_and_stay_finite_far_below_any_model(alpha):
    means = torch.linspace(-500, 0, 2001, dtype=torch.float64, requires_grad=True)
    rewards = alpha_reward(means, alpha)
    rewards.sum().backward()
    assert rewards.isfinite().all()
    # Without rounding, all would be above 0.
    assert (means.grad >= 0).all()
    assert (means.grad[-100:] > 0).all()


def test_alpha_rewards_tend_to_log_probabilities():
    means = t(-7.0, -2.5, -0.1, 0.0)
    torch.testing.assert_close(alpha_reward(means, 1e-9), means, rtol=1e-7, atol=0)
    assert torch.equal(alpha_reward(means, 0.0), means)


def test_the_straight_part_of_alpha_rewards_joins_the_curve():
    means = (-20.0 / 0.25 + t(1e-6, -1e-6)).requires_grad_()
    rewards = alpha_reward(means, 0.25)
    rewards.sum().backward()
    torch.testing.assert_close(rewards[0], rewards[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(means.grad[0], means.grad[1], rtol=1e-5, atol=0)


def test_alpha_po_logs_its_own_rewards(tiny_model_dir):
    module = ready("AlphaPO", tiny_model_dir, beta=0.7, alpha=0.5)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    metrics = scored(module, batch).metrics
    means = module.policy.sequence_logps(batch.rows).means.detach()
    rewards = 0.7 * (1 - (-0.5 * means).exp()) / 0.5
    assert metrics["rewards/chosen"] == pytest.approx(rewards[batch.chosen].mean().item(), rel=1e-6)
    assert metrics["rewards/rejected"] == pytest.approx(rewards[batch.rejected].mean().item(), rel=1e-6)


@pytest.mark.parametrize("detach_gate", [False, True])
def test_a_detached_gate_passes_no_gradient(detach_gate):
    case = next(case for case in CASES if case.slug == "pairwise_cringe")
    policy, reference = case.inputs
    rejected = policy.rejected.clone().requires_grad_()
    module = lit_align.PairwiseCringe(policy="unused", detach_gate=detach_gate, **case.values[0].kwargs)
    loss = module.losses(policy._replace(rejected=rejected), reference, **case.facts).sum()
    assert loss.item() == pytest.approx(case.values[0].loss)
    # The rejected log-probability stands in the gate only.
    assert loss.requires_grad is not detach_gate


def test_a_wide_open_gate_leaves_the_loss_without_it():
    module = lit_align.PairwiseCringe(policy="unused", b=1e6, alpha=0.5, k=1, reduction="sum")
    losses = module.losses(*P2, contrast=PairValues(t(0.0, 0.0), t(3.0, 4.0)))
    assert losses.tolist() == pytest.approx([12.5 + 1.5, 20.25 + 2])


def test_slic_stays_close_to_the_target_of_the_data(tiny_model_dir):
    """One of two pairs has a text of its own, the other's is its chosen response."""
    module = ready("SLiCHF", tiny_model_dir, reg_weight=1.0)
    first, second = make_examples(DataKind.PAIRS)[:1], make_examples(DataKind.PAIRS)[2:3]
    prompt = first[0].ids[0][: first[0].prompt_lengths[0]]
    text = [*prompt, 50, 60, 70]
    first = [
        first[0]._replace(ids=[*first[0].ids, text], prompt_lengths=[*first[0].prompt_lengths, len(prompt)], target=2)
    ]
    batch = collated(module, [*first, *second], Layout.SHARED)
    terms = module.terms(batch)
    with module.policy.plain(), torch.no_grad():
        logits = module.policy.model(input_ids=torch.tensor([text])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(text[len(prompt) :])[:, None]).sum()
    chosen = module.policy.sequence_logps(batch.rows).sums[batch.chosen]
    assert terms["nll"].values.tolist() == pytest.approx([-expected.item(), -chosen[1].item()], rel=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("PairwiseCringe", DataKind.PAIRS), ("BinaryCringe", DataKind.UNPAIRED)])
def test_cringe_on_held_out_data_does_not_depend_on_chance(name, kind, tiny_model_dir):
    module = ready(name, tiny_model_dir, k=5)
    batch = collated(module, make_examples(kind), Layout.SHARED)
    values = {}
    for training in (True, False):
        module.train(training)
        values[training] = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            values[training].append(torch.stack([term.values for term in module.terms(batch).values()]).sum(0))
    assert not torch.equal(*values[True])
    assert torch.equal(*values[False])
