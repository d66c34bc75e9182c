"""Length: what keeps responses short where labels favour long ones."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Objective, method
from evidence.training import train
from evidence.worlds.base import expectation
from evidence.worlds.data import Pairs
from evidence.worlds.sampled import Corrupted, regret
from evidence.worlds.tree import Tree

W2 = "W2: a quality token, then tokens that only add length; labels reward 0.6 quality + bonus per token; exact pairs."
BONUSES = (0.0, 0.15, 0.3)
R_ALPHAS = (0.05, 0.1, 0.2)


def measure_tree(run: Run, label: str, world: Tree, state: Tensor) -> None:
    """Measure mean length and quality, and how well mean log-probabilities per token order pairs by reward."""
    means = world.table(state)[:, 0] / world.tokens
    drawn = world.reference[:, 0].exp()
    better = world.reward[0, 0][:, None] > world.reward[0, 0] + 1e-9
    weights = drawn[:, :, None] * drawn[:, None, :] * better
    right = (means[:, :, None] > means[:, None, :]) * weights
    run.measure(
        label,
        length=world.length(state),
        quality=world.mean_quality(state),
        ranking_per_token=right.sum((1, 2)) / weights.sum((1, 2)),
    )


@experiment(
    claim="Where labels favour length, SimPO and R-DPO answer shorter than DPO, at no loss of quality",
    paper="SimPO, arXiv 2405.14734; R-DPO, 2403.19159",
    world=W2,
    budget="150 full-batch steps of Adam 0.02; beta 0.5, SimPO beta 2 and gamma 1",
)
def length(run: Run) -> None:
    """Mean length and quality under three length bonuses."""
    lines: dict[str, dict[float, str]] = {}
    for bonus in BONUSES:
        world = Tree(run.seeds, bonus)
        pairs = world.pairs()

        def named(name: str, bonus: float = bonus) -> str:
            lines.setdefault(name, {})[bonus] = f"{name}, bonus {bonus:g}"
            return f"{name}, bonus {bonus:g}"

        methods = [method("DPO", named("DPO"), beta=0.5), method("SimPO", named("SimPO"), beta=2.0, gamma=1.0)]
        methods += [
            method("LengthRegularizedDPO", named(f"R-DPO {alpha}"), beta=0.5, alpha=alpha) for alpha in R_ALPHAS
        ]
        for one in run.present(*methods):
            measure_tree(run, one.label, world, run.fit(world, one, pairs, steps=150, learning_rate=0.02))
        for name in ("SimPO", "R-DPO 0.1", "R-DPO 0.2"):
            run.expect("length", f"{name}, bonus {bonus:g}", "<", f"DPO, bonus {bonus:g}")
            run.expect("quality", f"{name}, bonus {bonus:g}", ">", f"DPO, bonus {bonus:g}", by=-0.05)
        run.expect("ranking_per_token", f"SimPO, bonus {bonus:g}", ">", f"DPO, bonus {bonus:g}")
        run.expect_order(
            "length", ">", *(f"{name}, bonus {bonus:g}" for name in ("DPO", *(f"R-DPO {a}" for a in R_ALPHAS)))
        )
    for bonus, dpo, simpo in zip(BONUSES, (3.63, 6.50, 7.36), (2.01, 3.87, 6.42), strict=True):
        run.compare_with_spec("length", f"DPO, bonus {bonus:g}", [dpo])
        run.compare_with_spec("length", f"SimPO, bonus {bonus:g}", [simpo])
    for alpha, value in zip(R_ALPHAS, (5.62, 4.60, 3.01), strict=True):
        run.compare_with_spec("length", f"R-DPO {alpha}, bonus 0.15", [value])
    run.plot_lines("length", "reward of one token", lines)
    run.plot_lines("quality", "reward of one token", lines)


@experiment(
    claim="Log-ratios per token make length-normalised DPO answer shorter than DPO where labels favour length",
    paper="length-normalised DPO, as in arXiv 2411.15124",
    world=W2 + " Bonus 0.15.",
    budget="150 full-batch steps of Adam 0.02; DPO beta 0.5, per token beta 2, 5 and 10",
    discussion=(
        "At beta 2 the answers are longer than those of DPO. At beta 5 and 10 they are shorter, but the quality "
        "shows why: the policy has gone less far in everything."
    ),
)
def length_normalised(run: Run) -> None:
    """Mean length and quality; quality tells how far a method has gone at all."""
    world = Tree(run.seeds, 0.15)
    pairs = world.pairs()
    betas = (2.0, 5.0, 10.0)
    for one in run.present(
        method("DPO", beta=0.5),
        *(method("LengthNormalizedDPO", f"per token, beta {beta:g}", beta=beta) for beta in betas),
    ):
        measure_tree(run, one.label, world, run.fit(world, one, pairs, steps=150, learning_rate=0.02))
    for beta in betas:
        run.expect("length", f"per token, beta {beta:g}", "<", "DPO")
        run.expect("quality", f"per token, beta {beta:g}", ">", "DPO", by=-0.05)
    run.plot_bars("length", "quality")


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@experiment(
    claim="The less LD-DPO counts tokens beyond the length of the shorter response, the shorter it answers, as well",
    paper="LD-DPO, arXiv 2409.06411",
    world=W2 + " Bonus 0.15.",
    budget="60 gradient steps of 5 / beta, beta 0.5 (plain steps: Adam's scaling undoes the effect)",
)
def length_tail(run: Run) -> None:
    """Mean length and quality by the weight of the tail; 1 is DPO."""
    world = Tree(run.seeds, 0.15)
    pairs = world.pairs()
    labels = {share: f"LD-DPO {share:g}" for share in SHARES}
    for one in run.present(*(method("LDDPO", labels[share], beta=0.5, alpha=share) for share in SHARES)):
        measure_tree(run, one.label, world, run.fit(world, one, pairs, steps=60, learning_rate=10.0, optimiser="sgd"))
    run.expect_order("length", "<", *labels.values())
    run.expect("quality", labels[0.0], ">", labels[1.0], by=-0.01)
    run.plot_lines("length", "weight of the tail", {"LD-DPO": labels})
    run.plot_lines("quality", "weight of the tail", {"LD-DPO": labels})


@experiment(
    claim="Against corrupted labels that favour length, the three parts of DPO-COV together beat each part alone",
    paper="Provably Mitigating Corruption, Overoptimization, and Verbosity, OpenReview K2OWrXUVby",
    world=(
        "T6: 4 prompts, 10 responses, labels follow quality + 0.05 length, 30 % of those with a gap above 2 are "
        "wrong; wanted is quality."
    ),
    budget="2000 pairs, 1200 full-batch steps of Adam 0.02, beta 0.5",
    seeds=8,
)
def length_corruption(run: Run) -> None:
    """Regret of quality - beta KL, against the best policy."""
    world = Corrupted(run.seeds)
    pairs = world.pairs()
    off = {"noise_cost": 1.0, "sft_weight": 0.0, "length_weight": 0.0}
    for one in run.present(
        method("DPO", beta=0.5),
        method("DPOCOV", "robust", beta=0.5, **{**off, "noise_cost": 0.3}),
        method("DPOCOV", "pessimistic", beta=0.5, **{**off, "sft_weight": 0.01}),
        method("DPOCOV", "length", beta=0.5, **{**off, "length_weight": 0.05}),
        method("DPOCOV", "DPO-COV", beta=0.5, noise_cost=0.3, sft_weight=0.001, length_weight=0.05),
    ):
        state = run.fit(world, one, pairs, steps=1200, learning_rate=0.02)
        assert world.tokens is not None
        run.measure(
            one,
            regret=regret(state, world.reference, world.quality, 0.5),
            quality=expectation(state, world.quality),
            length=expectation(state, world.tokens),
        )
    for other in ("DPO", "robust", "pessimistic", "length"):
        run.expect("regret", "DPO-COV", "<", other)
    run.expect("quality", "DPO-COV", ">", "DPO")
    run.expect("length", "DPO-COV", "<", "DPO")
    run.plot_bars("regret", "quality", "length")


ROUNDS, CANDIDATES, PER_ROUND = 3, 8, 64


@experiment(
    claim="Round after round, iLR-DPO's length penalty holds length back where plain iterative DPO grows",
    paper="iLR-DPO, arXiv 2406.11817",
    world="W2 with a noisy judge (noise 0.3, bonus 0.15): 64 times best and worst of 8 samples, each round.",
    budget="3 rounds of 30 steps of Adam 0.02, beta 0.1, reference = policy at the start of the round",
)
def length_rounds(run: Run) -> None:
    """Mean length and quality after each round, by the penalty."""
    world = Tree(run.seeds, 0.15)
    alphas = (0.0, 0.05, 0.1, 0.2)
    lines: dict[str, dict[float, str]] = {}
    for one in run.present(
        *(method("IterativeLRDPO", f"penalty {alpha:g}", beta=0.1, alpha=alpha) for alpha in alphas)
    ):
        theta = world.start()
        generators = [torch.Generator().manual_seed(seed) for seed in range(run.seeds)]
        for round_number in range(1, ROUNDS + 1):
            with torch.no_grad():
                pairs = best_against_worst(world, world.table(world.state(theta)), generators)
            objective = Objective(world, one, pairs, reference=theta)
            theta = train(objective, theta, run.steps(30), 0.02)
            label = f"{one.label}, round {round_number}"
            measure_tree(run, label, world, world.state(theta))
            lines.setdefault(one.label, {})[round_number] = label
    for round_number in range(1, ROUNDS + 1):
        run.expect_order("length", ">", *(f"penalty {alpha:g}, round {round_number}" for alpha in alphas))
    run.expect("quality", f"penalty 0.2, round {ROUNDS}", ">", f"penalty 0, round {ROUNDS}", by=-0.05)
    run.plot_lines("length", "round", lines)
    run.plot_lines("quality", "round", lines)


def best_against_worst(world: Tree, table: Tensor, generators: list[torch.Generator]) -> Pairs:
    """The best and the worst of several samples of the policy, by a noisy reward."""
    rows = []
    for seed, generator in enumerate(generators):
        probabilities = table[seed, 0].exp().expand(PER_ROUND, -1)
        samples = torch.multinomial(probabilities, CANDIDATES, replacement=True, generator=generator)
        noise = 0.3 * torch.randn(samples.shape, generator=generator, dtype=torch.float64)
        judged = world.reward[seed, 0][samples] + noise
        chosen = samples.gather(1, judged.argmax(1, keepdim=True))[:, 0]
        rejected = samples.gather(1, judged.argmin(1, keepdim=True))[:, 0]
        differ = chosen != rejected
        chosen, rejected = chosen[differ], rejected[differ]
        rows.append((torch.full_like(chosen, seed), torch.zeros_like(chosen), chosen, rejected))
    return Pairs(*(torch.cat(column) for column in zip(*rows, strict=True)))
