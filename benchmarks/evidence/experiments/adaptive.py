"""Weights, margins and shapes that follow the policy: WPO, beta-DPO, alpha-DPO, AlphaPO."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.experiments.likelihood import mean_logp
from evidence.product import Minibatches, Objective, method
from evidence.training import train
from evidence.worlds.bandit import PROMPTS, RESPONSES, Bandit
from evidence.worlds.base import expectation, generators, kl, per_seed
from evidence.worlds.data import Pairs, flip, winners

W1 = "W1: log-linear bandit, 16 prompts, 20 responses, 6 shared features"


def foreign_pairs(world: Bandit, reward: Tensor, number: int = 256) -> Pairs:
    """Pairs of responses drawn at random, not from the policy, labelled by Bradley-Terry."""
    rows = []
    for seed, generator in enumerate(generators(world.seeds, 900)):
        prompt = torch.randint(0, PROMPTS, (number,), generator=generator)
        one = torch.randint(0, RESPONSES, (number,), generator=generator)
        two = (one + torch.randint(1, RESPONSES, (number,), generator=generator)) % RESPONSES
        gap = reward[seed, prompt, one] - reward[seed, prompt, two]
        wins = torch.rand(number, generator=generator) < gap.sigmoid()
        chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
        rows.append((torch.full_like(prompt, seed), prompt, chosen, rejected))
    return Pairs(*(torch.cat(column) for column in zip(*rows, strict=True)))


@experiment(
    claim="On pairs that others wrote, WPO's weights by what the policy itself would write earn more reward than DPO",
    paper="WPO, arXiv 2406.11827",
    world=W1
    + ", 256 pairs of random responses; the reward is linear, or has a square that the policy cannot represent.",
    budget="600 full-batch steps of Adam 0.03, beta 0.1",
    seeds=8,
    discussion=(
        "Where the policy can represent the reward, every pair teaches the same and weights only waste some: DPO "
        "earns more. Where it cannot, it matters for which responses it is right, and WPO's are those that it "
        "writes."
    ),
)
def own_responses(run: Run) -> None:
    """Mean reward under a reward that the policy can represent, and under one that it cannot."""
    world = Bandit(run.seeds)
    directions = torch.stack([torch.randn(6, generator=g, dtype=torch.float64) for g in generators(run.seeds, 500)])
    square = world.value(directions).square()
    rewards = {"linear reward": world.reward, "reward with a square": world.reward + square - square.mean()}
    for case, reward in rewards.items():
        pairs = foreign_pairs(world, reward)
        for one in run.present(method("DPO", f"DPO, {case}", beta=0.1), method("WPO", f"WPO, {case}", beta=0.1)):
            state = run.fit(world, one, pairs, steps=600, learning_rate=0.03)
            run.measure(one, reward=expectation(state, reward), KL_to_reference=kl(state, world.reference))
        run.expect("reward", f"WPO, {case}", ">", f"DPO, {case}")
    run.plot_bars("reward", "KL_to_reference")


BETAS = (0.05, 0.1, 0.5)


@experiment(
    claim="With a beta for each batch and outliers left out, beta-DPO depends less on beta than DPO",
    paper="beta-DPO, arXiv 2407.08639",
    world=W1 + ", 256 sampled pairs of which 20 % are flipped.",
    budget="600 steps of Adam 0.03 on batches of an eighth of the pairs",
)
def dynamic_beta(run: Run) -> None:
    """Mean reward by beta, and its range over the betas."""
    world = Bandit(run.seeds)
    pairs = flip(world.pairs(), 0.2, generators(run.seeds, 77))
    lines: dict[str, dict[float, str]] = {}
    for name in ("DPO", "BetaDPO"):
        rewards = []
        for one in run.present(*(method(name, f"{name} {beta}", beta=beta) for beta in BETAS)):
            theta = train(Minibatches(world, one, pairs, 8), world.start(), run.steps(600), 0.03)
            rewards.append(expectation(world.state(theta), world.reward))
            run.measure(one, reward=rewards[-1])
            lines.setdefault(name, {})[one.kwargs["beta"]] = one.label
        table = torch.stack(rewards)
        run.measure(
            f"{name}, over all betas", range_of_reward=table.amax(0) - table.amin(0), least_reward=table.amin(0)
        )
    run.expect("range_of_reward", "BetaDPO, over all betas", "<", "DPO, over all betas")
    run.expect("least_reward", "BetaDPO, over all betas", ">", "DPO, over all betas")
    run.plot_lines("reward", "beta", lines, log_x=True)


@experiment(
    claim="DiscoPOP, a loss that was found by search, earns as much as DPO",
    paper="DiscoPOP, arXiv 2406.08414",
    world=W1 + ", 256 sampled pairs.",
    budget="600 full-batch steps of Adam 0.03, beta 0.05; from the reference, or from 200 steps of SFT",
    discussion=(
        "Where policy and reference agree the loss rises with the margin: it is not convex, and a step from there "
        "turns a pair round. Nothing carries pairs over that hill here; on a language model noise may. Fine-tuning "
        "first puts more pairs beyond it, and seeds then end far apart."
    ),
)
def discovered_loss(run: Run) -> None:
    """Mean reward and the share of training pairs in the right order."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    tuned = train(Objective(world, method("SFT"), winners(pairs)), world.start(), run.steps(200), 0.03)
    run.measure("reference", reward=expectation(world.reference, world.reward))
    run.measure("SFT", reward=expectation(world.state(tuned), world.reward))
    for case, start in {"from the reference": world.start(), "from SFT": tuned}.items():
        for name in ("DPO", "DiscoPOP"):
            (one,) = run.present(method(name, f"{name} {case}", beta=0.05))
            state = world.state(train(Objective(world, one, pairs), start, run.steps(600), 0.03))
            moved = (world.inputs(state, pairs).margins - world.inputs(world.reference, pairs).margins) > 0
            run.measure(
                one, reward=expectation(state, world.reward), right_order=per_seed(moved.double(), pairs, run.seeds)
            )
        run.expect("reward", f"DiscoPOP {case}", ">", f"DPO {case}", by=-0.1)
    run.expect("reward", "DiscoPOP from SFT", ">", "SFT")
    run.plot_bars("reward", "right_order")


ALPHAS = (-0.25, 0.0, 0.1, 0.25)


@experiment(
    claim="AlphaPO's alpha sets how far likelihoods fall: the larger it is, the less, and the less reward is gained",
    paper="AlphaPO, arXiv 2501.03884",
    world=W1 + ", 256 sampled pairs.",
    budget="600 full-batch steps of Adam 0.03, beta 2, gamma 1",
    discussion=(
        "Between 0 and 0.25 the order is the expected one in the mean of every measure, and in most seeds. An alpha "
        "below 0 differs from SimPO by less than seeds differ."
    ),
)
def reward_shape(run: Run) -> None:
    """Log-probabilities of chosen and rejected responses, and mean reward, by alpha; 0 is SimPO."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    labels = {alpha: f"alpha {alpha:g}" for alpha in ALPHAS}
    for one in run.present(
        method("SimPO", beta=2.0, gamma=1.0),
        *(method("AlphaPO", labels[alpha], beta=2.0, gamma=1.0, alpha=alpha) for alpha in ALPHAS),
    ):
        state = run.fit(world, one, pairs, steps=600, learning_rate=0.03)
        run.measure(
            one,
            chosen_logp=mean_logp(world, state, pairs, pairs.chosen),
            rejected_logp=mean_logp(world, state, pairs, pairs.rejected),
            reward=expectation(state, world.reward),
        )
    run.expect_order("chosen_logp", "<", *labels.values())
    run.expect_order("rejected_logp", "<", *labels.values())
    run.expect_order("reward", ">", *labels.values())
    run.plot_bars("chosen_logp", "rejected_logp", "reward")


@experiment(
    claim="A target margin that follows each pair's gap makes alpha-DPO earn more than SimPO's fixed margin",
    paper="alpha-DPO, arXiv 2410.10148",
    world=W1 + ", 256 sampled pairs.",
    budget="600 full-batch steps of Adam 0.03, beta 2, margin 1 before adaptation",
    discussion=(
        "On clean labels both end within a few hundredths of each other. With flipped ones the adaptive margin "
        "earns more: it asks less of pairs that go against the others."
    ),
)
def adaptive_margin(run: Run) -> None:
    """Mean reward and divergence from the reference, with and without label noise."""
    world = Bandit(run.seeds)
    clean = world.pairs()
    for case, pairs in {"clean": clean, "20 % flipped": flip(clean, 0.2, generators(run.seeds, 77))}.items():
        for one in run.present(
            method("SimPO", f"SimPO, {case}", beta=2.0, gamma=1.0),
            method("AlphaDPO", f"alpha-DPO, {case}", beta=2.0, gamma_beta_ratio=0.5, alpha=0.2),
        ):
            state = run.fit(world, one, pairs, steps=600, learning_rate=0.03)
            run.measure(one, reward=expectation(state, world.reward), KL_to_reference=kl(state, world.reference))
        run.expect("reward", f"alpha-DPO, {case}", ">", f"SimPO, {case}")
    run.plot_bars("reward", "KL_to_reference")
