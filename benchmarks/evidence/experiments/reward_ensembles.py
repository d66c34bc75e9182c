"""Ensembles of reward models, and what is left of a reward when it is optimised."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.experiments.reward_models import fit_pairs
from evidence.product import method
from evidence.rewards import RewardLoss
from evidence.training import train
from evidence.worlds.answers import Compared, Sampled
from evidence.worlds.scorers import Head, Scorers
from lit_align.functional.ensembles import Combination, combined, moments, standardised

MEMBERS, SAMPLES = 5, (16, 256, 1024)
UNSEEN, PROMPTS = 6, 200
COMBINED: dict[str, tuple[Combination, float]] = {
    "mean": ("mean", 0.0),
    "worst": ("worst", 0.0),
    "mean less half the variance": ("uncertainty", 0.5),
    "mean less twice the variance": ("uncertainty", 2.0),
}
BUDGET = (
    f"{MEMBERS} linear heads, each of its own first weights and bootstrap sample of the pairs; 300 full-batch steps "
    "of Adam 0.03"
)


@experiment(
    claim="Where samples differ from the data, counting disagreement against an answer stops over-optimisation",
    paper="Coste et al., arXiv 2310.02743",
    world=(
        "Answers of 10 features, and 6 more that are 0 in all training pairs; in samples these have heavy tails (t, 3 "
        "degrees of freedom), and the gold quality falls by half their size."
    ),
    budget=BUDGET,
    seeds=10,
    discussion=(
        "gold: quality of the best of n samples by the reward model, mean of 200 prompts. Members are standardised on "
        "answers like those of the training pairs, as a validation set would be. Whether variance or the worst member "
        "is the better measure depends on what variance weighs, in units of these scores: with 0.5, the usual weight, "
        "it punishes small disagreement less than the worst member does, and earns less; with 2 it earns more. Single "
        "is one of the heads; one model of all pairs is no safer."
    ),
)
def reward_ensemble(run: Run) -> None:
    """Gold quality of best-of-n, by n."""
    _best_of_n(run, Sampled(run.seeds, UNSEEN), pairs=500)
    most = SAMPLES[-1]
    chain = ("mean less half the variance", "worst", "mean", "single")
    run.expect_order("gold", ">", *(f"{label}, {most}" for label in chain))
    run.expect("gold", f"mean less half the variance, {most}", ">", f"mean less half the variance, {SAMPLES[0]}")
    run.expect("gold", f"single, {most}", "<", f"single, {SAMPLES[0]}", note="over-optimisation")


@experiment(
    claim="Where samples are like the data, the mean of an ensemble is best, and every ensemble beats a single model",
    paper="Coste et al., arXiv 2310.02743",
    world="Answers of 10 features, in training pairs and in samples alike.",
    budget=BUDGET,
    seeds=20,
    discussion=(
        "gold: quality of the best of n samples by the reward model, mean of 200 prompts; only 50 pairs. Differences "
        "are small. An ensemble of bootstrap samples beats one of its own heads, but not one model that has learnt "
        "from all pairs: linear heads gain nothing else by being averaged. At its usual weight variance costs "
        "nothing where nothing is unseen; the worst member and twice the variance do cost."
    ),
)
def reward_ensemble_benign(run: Run) -> None:
    """Gold quality of best-of-n, by n."""
    _best_of_n(run, Sampled(run.seeds, 0), pairs=50)
    most = SAMPLES[-1]
    for label in ("mean", "worst", "mean less half the variance"):
        run.expect("gold", f"{label}, {most}", ">", f"single, {most}")
    for label in ("worst", "mean less half the variance"):
        run.expect("gold", f"mean, {most}", ">", f"{label}, {most}")


def _best_of_n(run: Run, world: Sampled, pairs: int) -> None:
    """Train an ensemble, and measure the samples that it chooses."""
    train_on = world.pairs(pairs)
    train_on = Compared(*(world.padded(side) for side in train_on[:2]), gap=train_on.gap)
    scorers = Scorers(lambda: Head(world.dimensions + world.unseen, MEMBERS), run.seeds)
    single = Scorers(lambda: Head(world.dimensions + world.unseen), run.seeds)
    one, plain = run.present(
        method("EnsembleReward", "ensemble", members=MEMBERS), method("BradleyTerry", "single, all pairs")
    )
    loss, sides = RewardLoss(one, run.seeds), torch.cat(train_on[:2], 1)
    numbers = torch.arange(1, pairs + 1).expand(run.seeds, -1)
    theta = train(
        lambda theta: loss(*scorers(theta, sides).chunk(2, 1), source_rows=numbers),
        scorers.start(),
        run.steps(300),
        0.03,
    )
    samples, worth = world.samples(PROMPTS, SAMPLES[-1])
    other = fit_pairs(run, single, plain, train_on, steps=300, learning_rate=0.03)
    with torch.no_grad():
        members = _standardised(scorers(theta, samples), scorers(theta, world.padded(world.answers(1000, 1)[:, :, 0])))
        alone = single(other, samples)
    rewards = {"single": members[..., 0], "single, all pairs": alone}
    for label, (how, weight) in COMBINED.items():
        rewards[label] = combined(members.movedim(-1, 0), how, weight)
    lines: dict[str, dict[float, str]] = {}
    for label, reward in rewards.items():
        for number in SAMPLES:
            best = reward[..., :number].argmax(-1, keepdim=True)
            run.measure(f"{label}, {number}", gold=worth.gather(-1, best)[..., 0].mean(1))
            lines.setdefault(label, {})[number] = f"{label}, {number}"
    run.plot_lines("gold", "samples", lines, log_x=True)


def _standardised(scores: Tensor, common: Tensor) -> Tensor:
    """Scores [S, P, n, K] of members in units of what they give common answers [S, N, K]."""
    seeds = []
    for own, others in zip(scores, common, strict=True):
        members = zip(own.unbind(-1), others.unbind(-1), strict=True)
        seeds.append(torch.stack([standardised(member, moments(other)) for member, other in members], -1))
    return torch.stack(seeds)
