"""Single responses with a verdict: learning without pairs, and from few of one kind."""

from __future__ import annotations

import torch

from evidence.experiment import Run, experiment
from evidence.product import Objective, method
from evidence.worlds.bandit import Bandit
from evidence.worlds.base import expectation
from evidence.worlds.data import Labels, Pairs, split, take
from evidence.worlds.tabular import Tabular, exact_labels, one_prompt

W1 = "W1: log-linear bandit, 256 sampled pairs taken apart into single good and bad responses."
BUDGET = "600 full-batch steps of Adam 0.03, beta 0.1"


@experiment(
    claim="Good and bad responses without pairs are enough: KTO, BCO, UNA, APO and AOT all gain reward",
    paper="KTO, arXiv 2402.01306; BCO, 2404.04656; UNA, 2408.15339; APO, 2408.06266; AOT, 2406.05882",
    world=W1,
    budget=BUDGET,
)
def unpaired_labels(run: Run) -> None:
    """Mean reward; DPO on the same data as pairs beside it."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    labels, shuffled = split(pairs), mismatch(pairs)
    run.measure("reference", reward=expectation(world.reference, world.reward))
    methods = run.present(
        method("DPO", "DPO on the pairs", beta=0.1),
        method("AOT", "AOT on the pairs", beta=0.1),
        method("KTO", beta=0.1),
        method("BCO", beta=0.1),
        method("UNABinary", "UNA", beta=0.1),
        method("APOZeroUnpaired", "APO-zero unpaired", beta=0.1),
        method("AOTUnpaired", "AOT, pairs shuffled", beta=0.1),
        method("DPO", "DPO, pairs shuffled", beta=0.1),
    )
    for one in methods:
        data = pairs if "on the pairs" in one.label else shuffled if "shuffled" in one.label else labels
        state = run.fit(world, one, data, steps=600, learning_rate=0.03)
        run.measure(one, reward=expectation(state, world.reward))
        if "shuffled" in one.label:
            run.measure(one, transport_loss=transport_loss(run, world, state, shuffled))
    for one in methods[1:-1]:
        run.expect("reward", one.label, ">", "reference", by=0.5)
    run.expect(
        "transport_loss", "AOT, pairs shuffled", "<", "DPO, pairs shuffled", note="AOT's loss on the training set"
    )
    run.compare_with_spec("transport_loss", "AOT, pairs shuffled", (0.260, 0.272, 0.256, 0.255, 0.243))
    run.plot_bars("reward")


def mismatch(pairs: Pairs) -> Pairs:
    """The chosen responses with the rejected ones of other pairs: two sets without pairing.

    The prompt of a pair belongs to its chosen response; log-ratios are compared across prompts.
    """
    return pairs._replace(rejected=pairs.rejected.roll(1))


def transport_loss(run: Run, world: Bandit, state: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """AOT's unpaired loss of a policy, [S]."""
    if not run.needs("AOTUnpaired"):
        return torch.full((run.seeds,), -1.0)
    with torch.no_grad():
        return Objective(world, method("AOTUnpaired", beta=0.1), pairs).of_state(state)


@experiment(
    claim="With nine bad responses to a good one, the weighted unpaired losses still learn",
    paper="KTO, arXiv 2402.01306; BCO, 2404.04656; UNA, 2408.15339",
    world=W1 + " Eight of nine good responses are dropped.",
    budget=BUDGET + "; KTO with weights so that both kinds weigh alike, and without",
    discussion=(
        "KTO's loss is bounded: with weight 9 it soon settles the few good responses and stops there, while the "
        "many bad ones say what to avoid. That weights do better than none is not what this world shows."
    ),
)
def imbalanced_labels(run: Run) -> None:
    """Mean reward from unbalanced labels."""
    world = Bandit(run.seeds)
    labels = drop_good(split(world.pairs()), keep=1 / 9)
    run.measure("reference", reward=expectation(world.reference, world.reward))
    for one in run.present(
        method("KTO", "KTO, weights 9 : 1", beta=0.1, desirable_weight=9.0),
        method("KTO", "KTO, weights 1 : 1", beta=0.1),
        method("BCO", beta=0.1),
        method("UNABinary", "UNA", beta=0.1),
    ):
        state = run.fit(world, one, labels, steps=600, learning_rate=0.03)
        run.measure(one, reward=expectation(state, world.reward))
    for label in ("KTO, weights 9 : 1", "KTO, weights 1 : 1", "BCO", "UNA"):
        run.expect("reward", label, ">", "reference", by=0.5)
    run.expect("reward", "KTO, weights 9 : 1", ">", "KTO, weights 1 : 1")
    run.plot_bars("reward")


def drop_good(labels: Labels, keep: float) -> Labels:
    """The labels with a share of the desirable ones only, taken at even intervals."""
    assert labels.label is not None
    order = labels.label.long().cumsum(0)
    kept = ~labels.label | ((order * keep).floor() > ((order - 1) * keep).floor())
    return take(labels, kept)


@experiment(
    claim="Of contradictory labels KTO follows the majority; DPO may end with the minority that the reference likes",
    paper="KTO, arXiv 2402.01306",
    world="W4: 2 responses; a is preferred with probability 0.6, and the reference dislikes it.",
    budget="Adam 0.05, 3000 steps",
    seeds=1,
)
def majority(run: Run) -> None:
    """Probability of the response that the majority prefers."""
    for start, beta in ((0.1, 0.5), (0.2, 0.3)):
        case = f"reference {start}, beta {beta}"
        world = Tabular(one_prompt([start, 1 - start]), one_prompt([1.0, 1.0]))
        labels = exact_labels(world, torch.tensor([[[0.6, 0.4]]], dtype=torch.float64))
        zero = torch.zeros(2, dtype=torch.long)
        weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
        pairs = Pairs(zero, zero, torch.tensor([0, 1]), torch.tensor([1, 0]), weights=weights)
        for name, data in (("DPO", pairs), ("KTO", labels)):
            (one,) = run.present(method(name, f"{name}, {case}", beta=beta))
            state = run.fit(world, one, data, steps=3000, learning_rate=0.05)
            run.measure(one, majority_share=state[:, 0, 0].exp())
        run.expect("majority_share", f"KTO, {case}", ">", 0.5)
        run.expect("majority_share", f"DPO, {case}", "<", 0.5)
    run.compare_with_spec("majority_share", "DPO, reference 0.1, beta 0.5", [0.20])
    run.compare_with_spec("majority_share", "DPO, reference 0.2, beta 0.3", [0.491])
    run.plot_bars("majority_share")
