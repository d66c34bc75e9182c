"""Lists: what is gained from ranking all responses instead of the best against the worst."""

from __future__ import annotations

from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import method
from evidence.worlds.bandit import Bandit, best_and_worst, ranking_accuracy
from evidence.worlds.base import expectation


@experiment(
    claim="LiPO, InfoNCA, NCA, PRO and RRHF on whole lists beat DPO on their best against their worst responses",
    paper="LiPO, arXiv 2402.01878; NCA, 2402.05369; PRO, 2306.17492; RRHF, 2304.05302",
    world="W1: log-linear bandit, 16 prompts, one list of 4 random responses each, with exact rewards.",
    budget="500 full-batch steps of Adam 0.03, beta 0.5",
    discussion=(
        "All but LiPO gain in ranking rather than in reward. PRO and RRHF imitate the best response as well, and "
        "NCA holds likelihoods where they are: that keeps them near the data, at DPO's cost of none. The papers of "
        "PRO and RRHF compare with SFT on the best response, and against that RRHF wins, PRO in most seeds."
    ),
)
def lists(run: Run) -> None:
    """Mean reward, and how well the implicit reward (or the likelihood) ranks all responses."""
    world = Bandit(run.seeds)
    ranked = world.lists()
    for one in run.present(
        method("BestOfK", "SFT on best"),
        method("DPO", "DPO best-worst", beta=0.5),
        method("ListwiseEXO", "EXO", beta=0.5, reward_temperature=1.0),
        method("InfoNCA", beta=0.5, reward_temperature=1.0),
        method("NCA", beta=0.5, reward_temperature=1.0),
        method("LiPO", beta=0.5),
        method("RRHF"),
        method("PRO"),
    ):
        state = run.fit(
            world, one, best_and_worst(ranked) if one.name == "DPO" else ranked, steps=500, learning_rate=0.03
        )
        score = state - world.reference if one.build().needs_reference else state
        _measure(run, one.label, world, state, score)
    for label in ("LiPO", "InfoNCA", "NCA", "PRO", "RRHF"):
        run.expect("reward", label, ">", "DPO best-worst")
        run.expect("ranking", label, ">", "DPO best-worst")
    for label in ("PRO", "RRHF"):
        run.expect("reward", label, ">", "SFT on best")
    run.expect("ranking", "RRHF", ">", "SFT on best")
    run.expect("reward", "LiPO", ">", "PRO")
    run.compare_with_spec("reward", "DPO best-worst", (4.62, 4.44, 3.47, 1.14, 4.24))
    run.compare_with_spec("reward", "LiPO", (4.85, 4.87, 3.55, 1.20, 4.97))
    run.compare_with_spec("ranking", "RRHF", (0.974, 0.927, 0.950, 0.944, 0.972))
    run.plot_bars("reward", "ranking")


def _measure(run: Run, label: str, world: Bandit, state: Tensor, score: Tensor) -> None:
    run.measure(label, reward=expectation(state, world.reward), ranking=ranking_accuracy(score, world.reward))
