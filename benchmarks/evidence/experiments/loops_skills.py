"""Loops where the first policy seldom shows what good answers need: fresh answers, samplers, RSO's sampler."""

from __future__ import annotations

from typing import Any

from evidence.experiment import Run, experiment
from evidence.experiments.loops_online import offline_and_online, samplers_side_by_side
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop, sample
from evidence.product import method
from evidence.worlds.skilled import Skilled
from evidence.worlds.style import Gold
from evidence.worlds.tiny import base_policy
from lit_align.callbacks import RSO, IterativeDPO

WORLD = (
    "Texts on twelve topics; 5 % of people's answers are of skilled words, which is worth 4, and which of these are "
    "good can be seen in pairs of two such answers only. A tiny GPT-2."
)
FOUND = (
    "The world was made, after rejection_pairs, for what W1 lacks; settings were looked at with the seeds 100 to 103, "
    "and run once with these five."
)
JUDGED: dict[str, Any] = {"missing_eos_penalty": 0.0, **LOOP}
BETA = 0.2


def _start(run: Run, world: Skilled, seed: int) -> str:
    """The policy that all arms of a seed begin with."""
    return base_policy(world, world.demonstrations(4096, seed), seed, steps=run.steps(400))


@experiment(
    claim="Rounds of answers by the policy as it is beat as many pairs that were all written before training",
    paper="RLHF Workflow, arXiv 2405.07863; Iterative Preference Learning, 2312.11456",
    world=WORLD,
    budget="1200 prompts, 4 answers each, best against worst by gold; 375 steps of 64 pairs, beta 0.2",
    seeds=5,
    discussion=(
        "Offline is the same callback with one round of all prompts: its pairs seldom show two skilled answers, those "
        "of the second round mostly do. Four rounds of 100 steps were run first, with the seeds 0 to 4: rounds were "
        "ahead of offline in four, by 2.5, and in one the fourth round undid what three had gained (6.4, then 2.7, "
        "against 4.0). Three rounds, the paper's number, were then run once, with the seeds 5 to 9. In two of these "
        "a tenth to a fifth of the last round's answers have no end, which the guards, off here, would say. Where "
        "people's answers show all that is good, rounds add nothing (loops_iterative_common)."
    ),
)
def loops_iterative_dpo(run: Run) -> None:
    """Three rounds with the reference of the round's beginning, against one."""
    world, arms = Skilled(), Arms(run)
    (dpo,) = run.present(method("DPO", beta=BETA))
    for seed in range(5, 5 + run.seeds):
        policy, rows = _start(run, world, seed), world.prompt_rows(1200, seed)
        arms.add("SFT", **evaluate(policy, world))
        for name, rounds in (("offline", 1), ("rounds", 3)):
            loop = IterativeDPO(
                Gold(world), samples=4, rounds=rounds, prompts_per_round=1200 // rounds, epochs_per_round=25,
                reference="previous", reuse="none", seed=seed, **JUDGED,
            )  # fmt: skip
            trained = run_loop(dpo, policy, rows, loop, steps=375 // rounds, seed=seed)
            arms.add(name, pairs=trained.pairs, **evaluate(trained.policies[-1], world))
            for number, after in enumerate(trained.policies if rounds > 1 else [], start=1):
                arms.add(f"round {number}", **evaluate(after, world))
    arms.measure("gold", "length", "finished", "pairs")
    run.expect("gold", "rounds", ">", "offline")
    run.expect("gold", "offline", ">", "SFT")
    run.plot_bars("gold", "length")


@experiment(
    claim="Steps on two answers that the policy has just written beat as many steps on fixed pairs",
    paper="OAIF, arXiv 2402.04792",
    world=WORLD,
    budget="300 steps of 64 pairs, labels by gold, beta 0.2; offline: 1000 prompts, answered once by the first policy",
    seeds=5,
    discussion=f"The threshold is our prototype's, of W1, in which it is not reached (loops_online_common). {FOUND}",
)
def loops_online_dpo(run: Run) -> None:
    """The callback of rounds with one round, against the callback that writes in every step."""
    world, arms, steps = Skilled(), Arms(run), 300
    (dpo,) = run.present(method("DPO", beta=BETA))
    for seed in range(run.seeds):
        offline_and_online(arms, world, dpo, _start(run, world, seed), seed, steps)
    arms.measure("gold", "length", "finished")
    run.expect("gold", "online", ">", "offline", by=0.25)
    run.expect("gold", "offline", ">", "SFT")
    run.plot_bars("gold", "length")


@experiment(
    claim="Samplers around the policy teach more than two of its own answers, and these more than the reference's",
    paper="The Crucial Role of Samplers, arXiv 2409.19605",
    world=WORLD,
    budget=(
        "3 rounds of 800 prompts, two answers each at temperature 1, 45 steps of 64 pairs, rate 5e-4, soft labels, "
        "beta 0.2"
    ),
    seeds=5,
    discussion=(
        "mix_p mixes the logits of policy and reference, mix_r picks the best and the worst of eight answers, and so "
        "pays for more of them. With 640 prompts, on seeds 100 to 102, mix_r was ahead of online in all, by 0.3, and "
        "mix_p in one. Where a round goes on until little is left to learn, who wrote makes less of a difference: "
        "with 320 prompts, 100 steps and a rate of 1e-3, run with the seeds 0 to 9, mix_p was ahead of online in five, "
        "by 0.06 [-0.16, 0.28], mix_r in six, by 0.11 [-0.04, 0.26], and the reference behind in all, by 1.7; seeds "
        "100 to 103, on which these were chosen, had promised more for mix_p. In W1 samplers are hardly told "
        "apart (loops_samplers_common); on the quickstart's model mixed logits are ahead (loops_samplers_quickstart)."
    ),
)
def loops_samplers(run: Run) -> None:
    """Gold after three rounds, by who writes the answers."""
    world, arms = Skilled(), Arms(run)
    (soft,) = run.present(method("SoftDPO", beta=BETA))
    how: dict[str, Any] = {"prompts": 800, "epochs": 5, "steps": 45, "learning_rate": 5e-4}
    for seed in range(run.seeds):
        samplers_side_by_side(arms, world, soft, _start(run, world, seed), seed, **how)
    arms.measure("gold", "length", "finished", "pairs")
    run.expect("gold", "online", ">", "reference")
    run.expect("gold", "mix_p", ">", "reference")
    run.expect("gold", "mix_p", ">", "online")
    run.expect("gold", "mix_r", ">", "online")
    run.plot_bars("gold", "finished")


@experiment(
    claim="RSO's pairs teach more than as many pairs of the first policy",
    paper="RSO, arXiv 2309.06657",
    world=WORLD,
    budget=(
        "128 prompts, 8 of 64 candidates accepted, four pairs each; 200 steps of 64 pairs; hinge with gamma 0.5, DPO "
        "with beta 0.2"
    ),
    seeds=5,
    discussion=(
        "Both losses are the paper's, the sampler's temperature is 1. skilled: share of skilled answers, of which "
        "there are three among 64 candidates. With DPO, pairs of the first policy make the policy say skilled words "
        "as well as RSO's do; which of them are good, RSO's pairs tell. With the hinge loss they do less of both. "
        f"{FOUND} Nothing is asked of the best 8: with DPO these beat what the sampler accepts in all seeds, by 0.5, "
        "with the hinge loss not; 64 candidates do not cover the optimum. In W1 RSO's pairs teach no more than others "
        "(loops_rso_common)."
    ),
)
def loops_rso(run: Run) -> None:
    """An infinite temperature of the sampler accepts the first eight candidates, a tiny one the best eight."""
    world, arms = Skilled(), Arms(run)
    losses = run.present(method("HingeDPO", "hinge", beta=0.5), method("DPO", "DPO", beta=BETA))
    for seed in range(run.seeds):
        policy, rows = _start(run, world, seed), world.prompt_rows(128, seed)
        arms.add("SFT", **_worth(policy, world))
        for loss in losses:
            for name, beta in (("RSO", 1.0), ("SFT samples", 1e9), ("best 8", 1e-6)):
                loop = RSO(
                    Gold(world), sampler_beta=beta, temperature=1.0, top_k=None, epochs_per_round=50, seed=seed,
                    **JUDGED,
                )  # fmt: skip
                trained = run_loop(loss, policy, rows, loop, steps=200, seed=seed)
                arms.add(f"{name}, {loss.label}", pairs=trained.pairs, **_worth(trained.policies[-1], world))
    arms.measure("gold", "skilled", "length", "pairs")
    for loss in losses:
        run.expect("gold", f"RSO, {loss.label}", ">", f"SFT samples, {loss.label}")
        run.expect("gold", f"SFT samples, {loss.label}", ">", "SFT")
    run.plot_bars("gold", "skilled")


def _worth(policy: str, world: Skilled) -> dict[str, float]:
    """What `evaluate` measures, and the share of answers that are skilled."""
    answers = [one for (one,) in sample(policy, world.prompts(2048, 10_000), seed=10_000)]
    return evaluate(policy, world) | {"skilled": sum(world.is_skilled(one.text) for one in answers) / len(answers)}
