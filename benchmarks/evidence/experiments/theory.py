"""What the losses lead to where nothing is sampled: optima, determinism, bounded gaps."""

from __future__ import annotations

import torch

from evidence.experiment import Run, experiment
from evidence.product import Objective, method
from evidence.training import train
from evidence.worlds.base import generators, kl
from evidence.worlds.data import Pairs
from evidence.worlds.tabular import Tabular, exact_winners, one_prompt, single
from lit_align.core.outputs import PairLogps


@experiment(
    claim="On exact Bradley-Terry preferences DPO finds reference * exp(reward / beta); imitating winners does not",
    paper="DPO, arXiv 2305.18290",
    world="W4: 8 responses, exact pair probabilities.",
    budget="Adam 0.05, 4000 steps, beta 0.5",
)
def dpo_optimum(run: Run) -> None:
    """KL of the trained policy to the optimum of the KL-regularised reward."""
    world = Tabular.random(run.seeds)
    pairs = world.all_pairs()
    for one in run.present(method("DPO", beta=0.5), method("SFT", "SFT on winners")):
        data = exact_winners(world, pairs) if one.name == "SFT" else pairs
        state = run.fit(world, one, data, steps=4000, learning_rate=0.05)
        run.measure(one, KL_to_optimum=kl(state, world.optimum(0.5)))
    run.expect("KL_to_optimum", "DPO", "<", 1e-6)
    run.expect("KL_to_optimum", "SFT on winners", ">", 0.1)
    run.plot_bars("KL_to_optimum")


TAUS = (0.1, 0.5, 1.0)


@experiment(
    claim="On certain preferences DPO drifts to determinism for every beta, IPO stops at a gap that tau sets",
    paper="IPO, arXiv 2310.12036",
    world="W4: 3 equally likely actions, a > b > c, each pair certain.",
    budget="Adam 0.02, measured after 1000 and after 10000 steps",
    seeds=1,
)
def determinism(run: Run) -> None:
    """Mean gap of log-ratios over the three pairs; IPO's limit is (8/9) / (2 tau)."""
    world = Tabular(one_prompt([1 / 3] * 3), one_prompt([1.0] * 3))
    zero = torch.zeros(3, dtype=torch.long)
    pairs = Pairs(zero, zero, torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]))
    for name in ("IPO", "DPO"):
        for tau in TAUS:
            (one,) = run.present(method(name, f"{name} {tau}", beta=tau))
            gaps: dict[int, torch.Tensor] = {}
            ends = run.steps(1000), run.steps(10000)

            def note(step: int, theta: torch.Tensor, gaps: dict = gaps, ends: tuple = ends) -> None:
                if step in ends:
                    logps = theta.log_softmax(-1)[0, 0]
                    gaps[step] = (logps[pairs.chosen] - logps[pairs.rejected]).mean()[None]

            train(Objective(world, one, pairs), world.start(), ends[1], 0.02, after_step=note)
            early, late = (gaps[end] for end in ends)
            run.measure(one, gap_after_1000=early, gap_after_10000=late, growth=late / early)
    for tau in TAUS:
        run.expect("growth", f"IPO {tau}", "<", 1.01)
        run.expect("growth", f"DPO {tau}", ">", 1.5)
    for tau, ipo, dpo in zip(TAUS, (4.444, 0.889, 0.444), ((18.9, 86.2), (9.2, 24.7), (6.0, 13.8)), strict=True):
        run.compare_with_spec("gap_after_10000", f"IPO {tau}", [ipo])
        run.compare_with_spec("gap_after_1000", f"DPO {tau}", dpo[:1])
        run.compare_with_spec("gap_after_10000", f"DPO {tau}", dpo[1:])
    run.plot_bars("gap_after_1000", "gap_after_10000")


@experiment(
    claim="cDPO's reward gap of a pair ends at log((1 - eps) / eps); DPO's grows on",
    paper="Mitchell, A note on DPO with noisy preferences, 2023",
    world="W4: 2 responses, one pair.",
    budget="Adam 0.05, 2000 steps, beta 0.5",
    seeds=1,
)
def bounded_gaps(run: Run) -> None:
    """Implicit reward gap after training."""
    world = Tabular(one_prompt([0.5, 0.5]), one_prompt([1.0, 1.0]))
    for one in run.present(
        method("DPO", beta=0.5),
        method("ConservativeDPO", "cDPO 0.1", beta=0.5, label_smoothing=0.1),
        method("ConservativeDPO", "cDPO 0.2", beta=0.5, label_smoothing=0.2),
    ):
        moved = (run.fit(world, one, single(0, 1), steps=2000, learning_rate=0.05) - world.reference)[0, 0]
        run.measure(one, reward_gap=0.5 * (moved[:1] - moved[1:]))
    for label, gap in (("cDPO 0.1", 2.197225), ("cDPO 0.2", 1.386294)):
        run.expect("reward_gap", label, ">", gap - 1e-3)
        run.expect("reward_gap", label, "<", gap + 1e-3)
        run.compare_with_spec("reward_gap", label, [gap])
    run.expect("reward_gap", "DPO", ">", 3 * 2.197225)
    run.plot_bars("reward_gap")


@experiment(
    claim="BCO's cross entropy bounds DPO's loss from above, most tightly with the mean reward as its shift",
    paper="BCO, arXiv 2404.04656",
    world="1000 pairs with standard normal implicit rewards around a common offset of 2; nothing is trained.",
    budget="beta 1",
)
def classifier_bound(run: Run) -> None:
    """Mean BCO loss minus mean DPO loss, by the shift."""
    drawn = torch.stack([torch.randn(2, 1000, generator=g, dtype=torch.float64) + 2 for g in generators(run.seeds)])
    ones = torch.ones(1000, dtype=torch.float64)
    dpo = method("DPO", beta=1.0).build()
    gaps: dict[str, list[torch.Tensor]] = {}
    for shift in run.present(method("BCOPair", beta=1.0, shift=False)):
        mean = method("BCOPair", beta=1.0, shift=True)
        for rewards in drawn:
            reference = PairLogps(0 * ones, 0 * ones, ones, ones)
            policy = PairLogps(*rewards, ones, ones)
            twice = policy._replace(chosen=rewards[0] - 2 * rewards.mean(), rejected=rewards[1] - 2 * rewards.mean())
            for label, module, given in (
                ("mean reward", mean.build(), policy),
                ("no shift", shift.build(), policy),
                ("twice the mean", shift.build(), twice),
            ):
                gap = module.losses(given, reference).mean() - dpo.losses(policy, reference).mean()
                gaps.setdefault(label, []).append(gap)
    for label, values in gaps.items():
        run.measure(label, gap=torch.stack(values))
    for label in gaps:
        run.expect("gap", label, ">", 0.0)
    run.expect("gap", "mean reward", "<", "no shift")
    run.expect("gap", "mean reward", "<", "twice the mean")
    run.compare_with_spec("gap", "mean reward", [0.669])
    run.compare_with_spec("gap", "no shift", [1.373])
    run.compare_with_spec("gap", "twice the mean", [1.435])
    run.plot_bars("gap")
