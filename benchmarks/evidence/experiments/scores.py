"""Scores: what is gained from knowing how much better, not only which."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.product import method
from evidence.worlds.bandit import Bandit, rank_correlation
from evidence.worlds.base import expectation
from evidence.worlds.sampled import Feedback, regret

BETAS = (0.1, 0.3, 0.5, 1.0, 2.0)


@experiment(
    claim="From few pairs with margins, ODPO's implicit rewards follow score gaps better than DPO's, at every beta",
    paper="ODPO, arXiv 2402.10571",
    world=("W1: log-linear bandit, scores = sigmoid of the reward, 40 sampled pairs, the better score is chosen."),
    budget="600 full-batch steps of Adam 0.03, offset = log of the score gap",
    seeds=10,
    discussion=(
        "The gain is small, one or two hundredths of a correlation that is above 0.93 already, and at small beta "
        "not clear of the spread between seeds."
    ),
)
def margins(run: Run) -> None:
    """Spearman correlation, over all pairs of responses, of implicit gaps with gaps of scores."""
    world = Bandit(run.seeds)
    scores = world.reward.sigmoid()
    # A reward so steep that its labels have no noise: the method needs a positive gap for the logarithm.
    pairs = world.pairs(number=40, reward=1e6 * world.reward)
    chosen, rejected = (scores[pairs.seed, pairs.prompt, part] for part in (pairs.chosen, pairs.rejected))
    facts = {"margin": chosen - rejected, "chosen_scores": chosen, "rejected_scores": rejected}
    pairs = pairs._replace(facts=facts)
    lines: dict[str, dict[float, str]] = {}
    for beta in BETAS:
        for one in run.present(method("DPO", f"DPO {beta}", beta=beta), method("ODPO", f"ODPO {beta}", beta=beta)):
            state = run.fit(world, one, pairs, steps=600, learning_rate=0.03)
            run.measure(
                one,
                gap_correlation=rank_correlation(state - world.reference, scores),
                reward=expectation(state, world.reward),
            )
            lines.setdefault(one.name, {})[beta] = one.label
        run.expect("gap_correlation", f"ODPO {beta}", ">", f"DPO {beta}")
    run.plot_lines("gap_correlation", "beta", lines, log_x=True)
    run.plot_lines("reward", "beta", lines, log_x=True)


@experiment(
    claim="From the same responses UNA learns more of scores than of thumbs, and more of thumbs than DPO of pairs",
    paper="UNA, arXiv 2408.15339",
    world=(
        "T5: 8 prompts, 10 responses, rewards with log Z = 0; n response pairs judged as pair, as thumbs, as noisy "
        "scores."
    ),
    budget="1500 full-batch steps of Adam 0.05, beta 0.5",
    seeds=8,
    discussion=(
        "UNA on pairs is DPO, number for number. From 100 pairs thumbs beat pairs in most seeds and in the mean, "
        "but some seeds are drawn badly; from 400 pairs in all."
    ),
)
def feedback(run: Run) -> None:
    """Regret of E[reward] - beta KL, by kind of feedback and number of pairs."""
    lines: dict[str, dict[float, str]] = {}
    for number in (100, 400):
        world = Feedback(run.seeds, number)
        data = {"UNAPair": world.pairs(), "DPO": None, "UNABinary": world.binary(), "UNAScore": world.scores()}
        data["DPO"] = data["UNAPair"]
        for one in run.present(
            method("DPO", f"DPO, {number}", beta=0.5),
            method("UNAPair", f"UNA pairs, {number}", beta=0.5),
            method("UNABinary", f"UNA thumbs, {number}", beta=0.5),
            method("UNAScore", f"UNA scores, {number}", beta=0.5),
        ):
            state = run.fit(world, one, data[one.name], steps=1500, learning_rate=0.05)
            run.measure(one, regret=regret(state, world.reference, world.reward, 0.5))
            lines.setdefault(one.label.split(",")[0], {})[number] = one.label
        run.expect_order("regret", "<", *(f"{kind}, {number}" for kind in ("UNA scores", "UNA thumbs", "DPO")))
    run.plot_lines("regret", "response pairs", lines)
