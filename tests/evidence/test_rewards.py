"""The evidence on reward models: its networks, losses and worlds against sums by hand, and experiments cut short."""

from __future__ import annotations

from math import exp

import pytest
import torch
from evidence.experiment import execute, load_all
from evidence.experiments.reward_pretraining import said_good_or_bad
from evidence.product import method
from evidence.rewards import Epochs, RewardLoss
from evidence.worlds.answers import Answers, Compared, Texts, agreement, rater_loss
from evidence.worlds.scorers import Head, Scorers, Transformer, mlp
from evidence.worlds.solutions import Solutions

import lit_align


def test_each_seed_has_a_network_of_its_own():
    scorers = Scorers(lambda: mlp(3, hidden=4), 2)
    theta, inputs = scorers.start(), torch.randn(2, 5, 3, dtype=torch.float64)
    together = scorers(theta, inputs)
    assert together.shape == (2, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        second = mlp(3, hidden=4).double()
    torch.testing.assert_close(together[1], second(inputs[1]))
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(scorers(theta, inputs)[0].sum(), theta)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_a_score_in_the_middle_of_a_text_does_not_see_its_end():
    scorers = Scorers(lambda: Transformer(7, 6), 1)
    texts = torch.tensor([[[1, 2, 3, 4, 5, 6], [1, 2, 3, 6, 5, 4]]])
    one, two = scorers(scorers.start(), texts)[0]
    torch.testing.assert_close(one[:3], two[:3])
    assert (one[3:] != two[3:]).all()


@pytest.mark.parametrize(
    ("name", "settings", "facts"),
    [("BradleyTerry", {}, ["margin"]), ("EnsembleReward", {"members": 2}, ["source_rows"])],
)
def test_the_loss_of_a_seed_is_the_products(name, settings, facts):
    shape = (2, 5, 2) if settings else (2, 5)
    chosen, rejected = torch.randn(2, *shape, dtype=torch.float64)
    given = {"margin": torch.rand(2, 5, dtype=torch.float64), "source_rows": torch.arange(1, 6).expand(2, -1)}
    given = {fact: given[fact] for fact in facts}
    losses = RewardLoss(method(name, **settings), 2)(chosen, rejected, **given)
    own = {fact: values[1] for fact, values in given.items()}
    terms = getattr(lit_align, name)(policy="unused", **settings).losses(chosen[1], rejected[1], **own)
    values = terms if isinstance(terms, torch.Tensor) else sum(term.values for term in terms.values())
    assert losses[1].item() == pytest.approx(values.mean().item())


def test_ratings_that_are_missing_are_not_divided_by():
    ratings = torch.tensor([[[1.0, torch.nan], [2.0, 3.0]]], dtype=torch.float64)
    loss = RewardLoss(method("RegressionReward", attributes=["a", "b"], weights="mean"), 1)
    assert loss(torch.zeros_like(ratings), ratings).item() == pytest.approx((1 + 4 + 9) / 3)


def test_an_epoch_shows_every_example_once():
    seen = []
    epochs = Epochs(lambda theta, index: seen.append(index) or theta, seeds=2, number=7, size=2)
    for _ in range(6):
        epochs(torch.zeros(2))
    for epoch in (seen[:3], seen[3:]):
        for own in torch.cat(epoch, 1):
            assert len(own.unique()) == 6


def test_agreement_is_that_of_raters():
    gap = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    agree = [1 / (1 + exp(-1)), 1 / (1 + exp(-2))]
    assert agreement(gap, gap).item() == pytest.approx(sum(agree) / 2)
    assert agreement(-gap, gap).item() == pytest.approx(1 - sum(agree) / 2)
    assert agreement(torch.zeros_like(gap), gap).item() == 0
    assert rater_loss(torch.zeros_like(gap), gap).item() == pytest.approx(0.6931, abs=1e-4)


def test_raters_choose_by_quality():
    world = Answers(2, bend=0.5)
    pairs = world.pairs(4000)
    torch.testing.assert_close(world.quality(pairs.chosen) - world.quality(pairs.rejected), pairs.gap)
    right = (pairs.gap > 0).double().mean(1)
    torch.testing.assert_close(right, agreement(pairs.gap, pairs.gap), atol=0.02, rtol=0)
    assert (world.pairs(50, raters=False).gap > 0).all()


def test_texts_share_a_beginning_and_are_worth_what_their_tokens_are():
    world = Texts(2)
    pairs = world.pairs(100, shared=8)
    same = (pairs.chosen == pairs.rejected).long().cumprod(-1).sum(-1)
    assert 2 < same.double().mean() < 6
    assert world.worth(pairs.chosen)[1, 3, -1].item() == pytest.approx(world.values[1][pairs.chosen[1, 3]].sum().item())


def test_a_model_of_steps_reads_no_later_step():
    world = Solutions(1)
    solved = world.draw(2000)
    read = world.inputs(solved.seen).view(1, 2000, world.steps, -1)
    own = read[..., : world.steps * world.features].unflatten(-1, (world.steps, world.features))
    torch.testing.assert_close(own[0, :, 2, :3], solved.seen[0, :, :3])
    assert (own[0, :, 2, 3:] == 0).all()
    sound = solved.right.all(-1)
    assert (solved.answer | ~sound).all()
    assert (solved.answer & ~sound).sum() / (~sound).sum() == pytest.approx(world.luck, abs=0.03)


def test_a_pair_becomes_two_that_differ_in_a_word():
    chosen, rejected = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]), torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    said = said_good_or_bad(Compared(chosen.double(), rejected.double(), torch.ones(1, 2)))
    assert said.chosen[0].tolist() == [[1, 1], [3, -1], [2, 1], [4, -1]]
    assert said.rejected[0].tolist() == [[1, -1], [3, 1], [2, -1], [4, 1]]


def test_experiments_on_reward_models_cut_short():
    known = load_all()
    for name in ("reward_circle", "reward_kwise", "reward_odin", "reward_regression"):
        result = execute(known[name], shrink=0.01, seeds=2)
        assert result["expectations"], name
        assert result["waiting"] == []


def test_a_head_of_one_number_has_no_dimension_for_it():
    assert Head(3)(torch.zeros(4, 3)).shape == (4,)
    assert Head(3, 2)(torch.zeros(4, 3)).shape == (4, 2)
