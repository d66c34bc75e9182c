"""The reference: one that follows the policy."""

from __future__ import annotations

import torch

from evidence.experiment import Run, experiment
from evidence.product import Method, Objective, method
from evidence.training import train
from evidence.worlds.bandit import Bandit
from evidence.worlds.base import expectation, kl
from evidence.worlds.data import Pairs


@experiment(
    claim="A reference that follows the policy lets TR-DPO go further than DPO: more reward, more divergence",
    paper="TR-DPO, arXiv 2404.09656",
    world="W1: log-linear bandit, 256 sampled pairs.",
    budget="600 full-batch steps of Adam 0.03, beta 1; soft: 0.6 every 32 steps, hard: 1 every 128",
)
def reference_refresh(run: Run) -> None:
    """Mean reward and divergence from the first reference."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    schedules = {"DPO": (0.0, 1), "TR-DPO soft": (0.6, 32), "TR-DPO hard": (1.0, 128)}
    for one in run.present(
        method("DPO", beta=1.0), method("TRDPO", "TR-DPO soft", beta=1.0), method("TRDPO", "TR-DPO hard", beta=1.0)
    ):
        state = world.state(refreshed(run, world, one, pairs, *schedules[one.label]))
        run.measure(one, reward=expectation(state, world.reward), KL_to_first=kl(state, world.reference))
    for label in ("TR-DPO soft", "TR-DPO hard"):
        run.expect("reward", label, ">", "DPO")
        run.expect("KL_to_first", label, ">", "DPO")
    run.compare_with_spec("reward", "DPO", (4.20, 4.01, 2.88, 0.41, 3.12))
    run.compare_with_spec("reward", "TR-DPO soft", (4.93, 4.93, 3.70, 1.17, 5.02))
    run.compare_with_spec("reward", "TR-DPO hard", (4.90, 4.87, 3.64, 1.05, 5.07))
    run.plot_bars("reward", "KL_to_first")


def refreshed(run: Run, world: Bandit, one: Method, pairs: Pairs, alpha: float, every: int) -> torch.Tensor:
    """Parameters after training with a reference that is mixed with the policy now and then."""
    objective = Objective(world, one, pairs)

    def after(step: int, theta: torch.Tensor) -> None:
        if alpha and step % every == 0:
            objective.reference_theta = torch.lerp(objective.reference_theta, theta, alpha)

    return train(objective, world.start(), run.steps(600), 0.03, after_step=after)
