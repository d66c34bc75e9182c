"""Reward models from labels that say how sure they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.experiments.reward_models import TEXT_BUDGET, TEXTS, differences
from evidence.product import Method, method
from evidence.rewards import Epochs, RewardLoss, rows
from evidence.training import train
from evidence.worlds.answers import Compared, Texts, agreement
from evidence.worlds.scorers import Scorers, Transformer

PAIRS = 1500


@experiment(
    claim="A labeller's probabilities teach a reward model more than the verdicts that are drawn from them",
    paper="RLAIF, arXiv 2309.00267",
    world=TEXTS + ".",
    budget=TEXT_BUDGET.replace("one epoch", "four epochs") + f", {PAIRS} pairs",
    discussion="accuracy: how often a fresh rater agrees, computed exactly for 2000 new pairs.",
)
def reward_soft(run: Run) -> None:
    """Agreement with fresh raters, after training on the same pairs by verdicts and by probabilities."""
    world = Texts(run.seeds)
    train_on, test = world.pairs(PAIRS), world.pairs(2000)
    scorers = Scorers(lambda: Transformer(world.vocabulary, world.length), run.seeds)
    for one in run.present(method("BradleyTerry", "verdicts"), method("SoftReward", "probabilities")):
        objective = _objective(one, train_on, scorers, run.seeds)
        steps = run.steps(4 * PAIRS // 50)
        theta = train(Epochs(objective, run.seeds, PAIRS, 50), scorers.start(), steps, 0.003)
        run.measure(one, accuracy=agreement(differences(scorers, theta, test)[..., -1], test.gap))
    run.measure("best possible", accuracy=agreement(test.gap, test.gap))
    run.expect("accuracy", "probabilities", ">", "verdicts")
    run.plot_bars("accuracy")


def _objective(one: Method, pairs: Compared, scorers: Scorers, seeds: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a method on some of the pairs, for all seeds."""
    loss = RewardLoss(one, seeds)

    def objective(theta: Tensor, index: Tensor) -> Tensor:
        texts = [rows(side, index) for side in pairs[:2]]
        scores = [values[..., -1] for values in scorers(theta, torch.cat(texts, 1)).chunk(2, 1)]
        facts = {"label_probability": rows(pairs.gap, index).sigmoid()} if one.name == "SoftReward" else {}
        return loss(*scores, **facts)

    return objective
