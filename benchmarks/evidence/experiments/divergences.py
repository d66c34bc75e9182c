"""Other divergences than reverse KL: how much of the reference's diversity is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import method
from evidence.worlds.bandit import Bandit
from evidence.worlds.base import entropy, expectation, generators
from evidence.worlds.data import Pairs
from evidence.worlds.tabular import Tabular


@experiment(
    claim="Nearer to forward KL, f-DPO keeps more entropy and earns less reward; Jensen-Shannon is close to reverse KL",
    paper="f-DPO, arXiv 2309.16240",
    world="W1: log-linear bandit, 256 sampled pairs.",
    budget="600 full-batch steps of Adam 0.03, beta 0.1",
)
def divergences(run: Run) -> None:
    """Entropy of the policy and mean reward."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    for one in run.present(
        method("FDPO", "reverse KL", beta=0.1, divergence="reverse_kl"),
        method("FDPO", "Jensen-Shannon", beta=0.1, divergence="js"),
        method("FDPO", "alpha 0.5", beta=0.1, divergence="alpha", alpha=0.5),
        method("FDPO", "forward KL", beta=0.1, divergence="forward_kl"),
    ):
        state = run.fit(world, one, pairs, steps=600, learning_rate=0.03)
        run.measure(one, entropy=entropy(state), reward=expectation(state, world.reward))
    run.expect_order("entropy", ">", "forward KL", "alpha 0.5", "reverse KL")
    run.expect_order("reward", "<", "forward KL", "alpha 0.5", "reverse KL")
    run.expect("entropy", "Jensen-Shannon", ">", "reverse KL", by=-0.1)
    run.expect("entropy", "Jensen-Shannon", "<", "reverse KL", by=-0.1)
    run.compare_with_spec("entropy", "forward KL", (1.59, 1.85, 1.74, 1.84, 1.91))
    run.compare_with_spec("entropy", "alpha 0.5", (1.14, 1.35, 1.33, 1.58, 1.44))
    run.compare_with_spec("entropy", "reverse KL", (0.16, 0.33, 0.23, 0.69, 0.18))
    run.plot_bars("entropy", "reward")


@experiment(
    claim="With few pairs DPO bets on rare responses that won by luck; chi-PO, which punishes large ratios, does not",
    paper="chi-PO, arXiv 2407.13399",
    world=("W4: 5 common arms (16 % each, rewards 0.5 to 0.9), 15 rare ones (20 % together, below 0.5); 60 pairs."),
    budget="3000 full-batch steps of Adam 0.05, beta 0.5, no clipping",
    seeds=20,
)
def coverage(run: Run) -> None:
    """True mean reward, and the policy's mean ratio to the reference."""
    world, pairs = rare_arms(run.seeds, 60)
    run.measure("reference", reward=expectation(world.reference, world.reward))
    for one in run.present(method("DPO", beta=0.5), method("ChiPO", "chi-PO", beta=0.5, r_max=None)):
        state = run.fit(world, one, pairs, steps=3000, learning_rate=0.05)
        ratio = expectation(state, (state - world.reference).exp())
        run.measure(one, reward=expectation(state, world.reward), concentration=ratio, log_concentration=ratio.log())
    run.expect("reward", "chi-PO", ">", "DPO", by=0.1)
    run.expect("log_concentration", "chi-PO", "<", "DPO", by=1.386, note="a quarter")
    run.plot_bars("reward", "log_concentration")


def rare_arms(seeds: int, number: int) -> tuple[Tabular, Pairs]:
    """The world of `coverage` and its sampled pairs."""
    reference = torch.tensor([0.16] * 5 + [0.2 / 15] * 15, dtype=torch.float64).log().expand(seeds, 1, 20)
    rewards, rows = [], []
    for seed, generator in enumerate(generators(seeds)):
        common = torch.linspace(0.5, 0.9, 5, dtype=torch.float64)
        reward = torch.cat([common, 0.5 * torch.rand(15, generator=generator, dtype=torch.float64)])
        arms = torch.multinomial(reference[seed, 0].exp(), 2 * number, replacement=True, generator=generator)
        one, two = arms.view(2, number)
        wins = torch.rand(number, generator=generator) < (reward[one] - reward[two]).sigmoid()
        chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
        differ = one != two
        zero = torch.zeros_like(one[differ])
        rows.append((zero + seed, zero, chosen[differ], rejected[differ]))
        rewards.append(reward[None])
    pairs = Pairs(*(torch.cat(column) for column in zip(*rows, strict=True)))
    return Tabular(reference, torch.stack(rewards)), pairs


class Gaussian(Tabular):
    """A policy with too little freedom: a discretised normal whose mean alone can move, from 0, with width 0.7."""

    points = torch.linspace(-4, 4, 81, dtype=torch.float64)
    width = 0.7

    def __init__(self, seeds: int) -> None:
        shares = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators(seeds)])
        left = (0.3 + 0.1 * shares)[:, None]
        modes = [-(self.points - centre).square() / (2 * 0.5**2) for centre in (-1.8, 1.8)]
        wanted = torch.logaddexp(left.log() + modes[0], (1 - left).log() + modes[1])[:, None]
        super().__init__(self.state(torch.zeros(seeds, 1, dtype=torch.float64)), wanted)

    def start(self) -> Tensor:
        """A little off the middle, towards neither mode in particular: 0."""
        return torch.zeros(self.seeds, 1, dtype=torch.float64)

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, 1, 81]."""
        return (-(self.points - theta).square() / (2 * self.width**2)).log_softmax(-1)[:, None]


@experiment(
    claim="A policy that cannot cover two modes: EXO settles on one of them, DPO between them",
    paper="EXO, arXiv 2402.00856",
    world="A normal policy whose mean alone moves; reward = log of two unequal modes; exact pairs.",
    budget="Adam 0.02, 1000 steps, beta 0.5",
)
def mode_seeking(run: Run) -> None:
    """Reverse KL to the target and mean reward."""
    world = Gaussian(run.seeds)
    pairs = world.all_pairs()
    target = world.optimum(0.5)
    for one in run.present(method("DPO", beta=0.5), method("EXO", beta=0.5)):
        state = run.fit(world, one, pairs, steps=1000, learning_rate=0.02)
        run.measure(
            one,
            reverse_KL=expectation(state, state - target),
            reward=expectation(state, world.reward),
            mean=expectation(state, world.points),
        )
    run.expect("reverse_KL", "EXO", "<", "DPO")
    run.expect("reward", "EXO", ">", "DPO")
    run.plot_bars("reverse_KL", "reward", "mean")
