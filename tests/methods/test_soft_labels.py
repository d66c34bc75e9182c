"""What soft labels, win probabilities and self-play promise beyond their rows: fixed points, rates, denominators."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Layout
from lit_align.core.outputs import PairLogps, SequenceLogps
from lit_align.methods.self_play import LARGEST_EXPONENT, self_play_loss
from lit_align.methods.soft_dpo import soft_dpo_loss
from tests.cases.row import sigmoid, t
from tests.methods.scoring import collated, make_examples, ready, scored


def pairs_of(chosen: torch.Tensor, rejected: torch.Tensor) -> PairLogps:
    """Pairs of single tokens."""
    return PairLogps(chosen, rejected, torch.ones(len(chosen)), torch.ones(len(chosen)))


def test_a_pair_at_its_probability_has_no_gradient():
    beta, probability = 0.1, 0.8
    gap = math.log(probability / (1 - probability)) / beta
    chosen = t(gap - 20.0).requires_grad_()
    losses = soft_dpo_loss(pairs_of(chosen, t(-20.0)), pairs_of(t(-9.0), t(-9.0)), t(probability), beta)
    losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("sampler", "deltas"),
    [
        ("uniform", (1.0, 0.0594083566825, 0.00950277415348, 0.00158985273328, 0.000267934492443)),
        ("rewards", (1.0, 0.135700468518, 0.00338796939099, 2.080626337e-06, 7.85149723015e-13)),
        ("policy", (1.0, 0.0594083566825, 0.000612666621025, 6.80832212829e-08, 0.0)),
    ],
)
def test_exact_updates_converge_as_the_samplers_paper_has_it(sampler, deltas):
    """Shi et al. 2024: three responses, every pair with its weight; linearly, or quadratically with its sampler."""
    rewards, beta = t(0.0, 1 / 3, 1.0), 1.0
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    first, second = (torch.tensor(side) for side in zip(*combinations(range(3), 2), strict=True))
    gaps = rewards[first] - rewards[second]
    method = lit_align.SoftDPO(policy="unused", beta=beta)
    found = []
    for _ in deltas:
        margins = theta[first] - theta[second]
        found.append(max(abs(gaps - beta * margins)).item())
        spread = {"uniform": torch.zeros_like(gaps), "rewards": gaps, "policy": beta * margins.detach()}[sampler]
        weights = 2 + spread.exp() + (-spread).exp()
        zero = torch.zeros_like(gaps)
        losses = method.losses(pairs_of(theta[first], theta[second]), pairs_of(zero, zero), gaps.sigmoid())
        (gradient,) = torch.autograd.grad((weights * losses).sum(), theta)
        theta = (theta - gradient / (beta**2 * 3)).detach().requires_grad_()
    assert found == pytest.approx(deltas, rel=1e-6, abs=1e-14)


def test_a_response_that_wins_half_of_the_time_stays():
    policy = pairs_of(t(-5.0).requires_grad_(), t(-7.0).requires_grad_())
    reference = pairs_of(t(-5.0), t(-7.0))
    lit_align.SPPO(policy="unused").losses(policy, reference, t(0.5), t(0.5)).sum().backward()
    assert policy.chosen.grad.item() == policy.rejected.grad.item() == 0


@pytest.mark.parametrize("shape", ["logistic", "hinge", "exponential", "correlation"])
def test_functions_of_self_play_are_convex_and_decreasing(shape):
    margins = torch.linspace(-2 * LARGEST_EXPONENT, 3, 2001, dtype=torch.float64)
    values = self_play_loss(margins, shape)
    steps = values.diff()
    assert (steps <= 0).all()
    assert (steps.diff() >= -1e-12 * values[:-2].abs().clamp(min=1)).all()
    at_start = self_play_loss(t(0.0), shape).item()
    assert at_start == pytest.approx(math.log(2) if shape == "logistic" else 1.0)


def test_soft_labels_of_a_batch_are_the_pairs_own(tiny_model_dir):
    """A labeller that is sure the other way turns the pair round."""
    module = ready("SoftDPO", tiny_model_dir)
    examples = make_examples(DataKind.PAIRS)
    turned = [e._replace(pairs=[(1, 0)], label_probability=1 - e.label_probability) for e in examples]
    straight, other = (scored(module, collated(module, rows, Layout.SHARED)) for rows in (examples, turned))
    torch.testing.assert_close(straight.values, other.values)
    torch.testing.assert_close(straight.gradient, other.gradient)


def test_each_sort_of_pairs_is_divided_by_its_own_count(tiny_model_dir):
    module = ready("AdversarialReward", tiny_model_dir)
    examples = make_examples(DataKind.PAIRS)
    got = scored(module, collated(module, examples, Layout.SHARED))
    game = [example for example in examples if example.game]
    human = [example for example in examples if not example.game]
    alone = [scored(module, collated(module, rows, Layout.SHARED)).loss for rows in (human, game)]
    torch.testing.assert_close(got.loss, sum(alone))
    assert got.metrics["accuracy"] == pytest.approx(
        (len(human) * got.metrics["accuracy/human"] + len(game) * got.metrics["accuracy/game"]) / len(examples)
    )


def test_a_student_that_is_its_teacher_has_no_loss_without_a_context(tiny_model_dir):
    module = ready("ContextDistillation", tiny_model_dir, moved=False)
    examples = make_examples(DataKind.CONTEXTUAL)
    with_context = scored(module, collated(module, examples, Layout.SHARED))
    assert (with_context.values > 1e-6).all()
    alike = [e._replace(ids=[e.ids[0]] * 2, prompt_lengths=[e.prompt_lengths[0]] * 2) for e in examples]
    without = scored(module, collated(module, alike, Layout.SHARED))
    torch.testing.assert_close(without.values, torch.zeros_like(without.values), rtol=0, atol=1e-9)
    assert without.metrics["nll_loss"] == pytest.approx(without.metrics["nll_loss/teacher"])


def test_fewer_tokens_told_apart_bound_the_divergence_from_below(tiny_model_dir):
    examples = make_examples(DataKind.CONTEXTUAL)
    losses = []
    for top_k in (1, 10, 100, None):
        module = ready("ContextDistillation", tiny_model_dir, top_k=top_k)
        losses.append(scored(module, collated(module, examples, Layout.SHARED)).loss.item())
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_the_student_comes_to_know_the_context(tiny_model_dir):
    """A few steps on one batch bring the divergence down to a fraction; the teacher stays as it was."""
    module = ready("ContextDistillation", tiny_model_dir, moved=False, dtype="float32")
    batch = collated(module, make_examples(DataKind.CONTEXTUAL), Layout.SHARED)
    optimiser = torch.optim.Adam(module.policy.parameters(), lr=3e-3)
    teacher = module.reference_logps(batch).sums
    losses = []
    for _ in range(40):
        loss = module.terms(batch)["divergence"].values.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert torch.equal(module.reference_logps(batch).sums, teacher)


def test_losses_do_not_depend_on_likelihoods_of_single_tokens():
    module = lit_align.ContextDistillation(policy="unused")
    logps = SequenceLogps(t(-3.0, -4.0), t(2, 3))
    assert module.losses(logps, logps, t(0.5, sigmoid(0.0)))["divergence"].values.tolist() == [0.5, 0.5]
