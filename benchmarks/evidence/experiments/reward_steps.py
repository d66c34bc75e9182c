"""Process and outcome reward models."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Method, method
from evidence.rewards import RewardLoss
from evidence.training import train
from evidence.worlds.scorers import Scorers, mlp
from evidence.worlds.solutions import Solutions, Solved
from lit_align.core.kinds.verdicts import aggregated

BEST_OF, PROBLEMS, SOLUTIONS = 32, 200, 500


@experiment(
    claim="To choose one of 32 solutions a model of steps is better than one of outcomes, trained on as many solutions",
    paper="Let's Verify Step by Step, arXiv 2305.20050; Math-Shepherd, 2312.08935",
    world=(
        "Solutions of 5 steps, each right in 67 % and seen through 4 noisy features; a quarter of those with an error "
        "end in the right answer all the same."
    ),
    budget=f"MLP with 32 hidden units over all steps so far; {SOLUTIONS} solutions, 300 full-batch steps of Adam 0.01",
    discussion="sound: all steps of the chosen solution are right; answers may be right by luck.",
)
def reward_process(run: Run) -> None:
    """How often the chosen solution has the right answer, and is sound."""
    world = Solutions(run.seeds)
    labelled, samples = world.draw(SOLUTIONS), world.draw(PROBLEMS * BEST_OF)
    scorers = Scorers(lambda: mlp(world.steps * (world.features + 1)), run.seeds)
    read = world.inputs(samples.seen)
    first = torch.arange(0, PROBLEMS * BEST_OF, BEST_OF).expand(run.seeds, -1)
    _chosen(run, "random", samples, first)
    for one in run.present(
        method("ProcessReward", "steps"),
        method("ProcessReward", "steps, until first error", until_first_error=True),
        method("OutcomeReward", "outcome, every step"),
        method("OutcomeReward", "outcome, last step", every_token=False),
    ):
        theta = _fit(run, world, scorers, one, labelled)
        with torch.no_grad():
            logits = scorers(theta, read)
        scores = logits[..., -1]
        if one.name == "ProcessReward":
            steps = logits.sigmoid()
            how = one.build().aggregate
            scores = torch.stack([aggregated(step, how) for step in steps.flatten(0, 1)]).view(scores.shape)
        best = scores.view(run.seeds, PROBLEMS, BEST_OF).argmax(-1)
        _chosen(run, one.label, samples, first + best)
    for label in ("outcome, every step", "outcome, last step"):
        run.expect("right_answer", "steps", ">", label, by=0.05)
        run.expect("sound", "steps", ">", label, by=0.05)
        run.expect("right_answer", label, ">", "random", by=0.05)
    run.plot_bars("right_answer", "sound")


def _fit(run: Run, world: Solutions, scorers: Scorers, one: Method, labelled: Solved) -> Tensor:
    """Weights after training on labelled steps, or on whether answers are right."""
    read, loss = world.inputs(labelled.seen), RewardLoss(one, run.seeds)
    outcome = labelled.answer[..., None].expand_as(labelled.right)
    if one.name == "ProcessReward":
        labels = labelled.right.double()
        # A step counts up to and with the first wrong one.
        before = labels.cumprod(-1).roll(1, -1)
        before[..., 0] = 1.0
        kept = before > 0 if one.kwargs.get("until_first_error") else torch.ones_like(before, dtype=torch.bool)
    else:
        labels, last = outcome, torch.zeros_like(outcome).index_fill(-1, torch.tensor(world.steps - 1), True)
        kept = last if not one.kwargs.get("every_token", True) else torch.ones_like(outcome)
    where = [own.nonzero(as_tuple=True) for own in kept]

    def objective(theta: Tensor) -> Tensor:
        logits = scorers(theta, read)
        own = ((logits[seed][place], labels[seed][place]) for seed, place in enumerate(where))
        return torch.stack([loss.of_seed(seed, *inputs) for seed, inputs in enumerate(own)])

    return train(objective, scorers.start(), run.steps(300), 0.01)


def _chosen(run: Run, label: str, samples: Solved, index: Tensor) -> None:
    """Measure the solutions [S, P] that were chosen."""
    sound = samples.right.all(-1).gather(1, index).double().mean(1)
    run.measure(label, right_answer=samples.answer.gather(1, index).double().mean(1), sound=sound)
