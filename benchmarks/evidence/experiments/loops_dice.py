"""DICE: the policy's implicit reward as its judge, with a price of length and with replayed pairs of people."""

from __future__ import annotations

import random
from typing import Any

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop, sample
from evidence.product import Method, method
from evidence.worlds.style import Row, Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks import DICE

NOISE = [f"c{number}" for number in range(32)]
"""Words of prompts that say nothing: no prompt is asked twice."""


class Asked(Style):
    """W1 with prompts that are all different."""

    def __init__(self) -> None:
        super().__init__(controls=NOISE)

    def prompts(self, number: int, seed: int) -> list[str]:
        """Prompts on random topics, with two words that say nothing."""
        rng = random.Random(f"prompts {seed}")
        return [f"{rng.choice(self.topics)} {rng.choice(NOISE)} {rng.choice(NOISE)} =" for _ in range(number)]


def _first_dpo(run: Run, dpo: Method, world: Style, seed: int) -> tuple[str, str, list[Row]]:
    """A policy before and after DPO on pairs of a rater who likes length a little, and these pairs."""
    before = base_policy(world, world.demonstrations(4096, seed), seed, steps=run.steps(600))
    prompts = world.prompts(6000, seed + 1)
    two = sample(before, prompts, samples=2, seed=seed)
    pairs = world.pairs(
        prompts,
        [first.text for first, _ in two],
        [second.text for _, second in two],
        seed=seed,
        scale=2.0,
        length_bonus=0.1,
    )
    pairs = [pair for pair in pairs if pair["chosen"] and pair["rejected"]]
    after = run_loop(dpo, before, pairs, steps=run.steps(400), epochs=5, seed=seed)
    return before, after.policies[-1], pairs


@experiment(
    claim="DICE improves a policy by its own implicit reward; a price of length holds length, replay holds round two",
    paper="DICE, Chen et al. 2024 (2406.09760)",
    world="W1 of texts, its prompts all different: answers of words on a topic, five of which are good; pairs by a "
    "rater who also likes length",
    budget="DPO on 6000 pairs (beta 1, 400 steps, lr 1e-3), then two rounds of 600 prompts with 8 answers each, beta "
    "1, 150 steps, lr 3e-4",
    seeds=3,
    discussion="growth: how much longer or shorter answers are than after DPO, words; with the price it is 0.1 to "
    "0.2 of a word in the first round, without it about 1. The second round ends below DPO in every seed,"
    " with replay by 0.1 to 0.3, without it by 0.8 or more: on its own answers the ratio of two policies "
    "that are close to each other says little. This is why DICE tests its judge on held-out pairs "
    "(gate_accuracy), which is off here.",
)
def loops_dice(run: Run) -> None:
    if not run.needs("DPO"):
        return
    world, arms = Asked(), Arms(run)
    (dpo,) = run.present(method("DPO", "DPO", beta=1.0))
    settings: dict[str, dict[str, Any]] = {
        "plain": {"replay": 0.0, "length_price": 0.0},
        "price": {"replay": 0.0},
        "price, replay": {"replay": 0.5},
    }
    for seed in range(run.seeds):
        before, policy, pairs = _first_dpo(run, dpo, world, seed)
        start = evaluate(policy, world)
        arms.add("DPO", gold=start["gold"], length=start["length"], growth=0.0)
        for label, given in settings.items():
            loop = DICE(
                before,
                samples=8,
                least_valid=4,
                prompts_per_round=600,
                epochs_per_round=25,
                temperature=1.0,
                top_p=1.0,
                gate_accuracy=0.0,
                seed=seed,
                **given,
                **LOOP,
            )
            trained = run_loop(dpo, policy, pairs, loop, steps=run.steps(150), seed=seed, learning_rate=3e-4)
            for number, after in enumerate(trained.policies, start=1):
                found = evaluate(after, world)
                growth = abs(found["length"] - start["length"])
                arms.add(f"{label} {number}", gold=found["gold"], length=found["length"], growth=growth)
    arms.measure()
    run.expect("gold", "price, replay 1", ">", "DPO", by=0.05, note="own answers teach")
    run.expect("growth", "price 1", "<", "plain 1", note="the price holds length back")
    run.expect("gold", "price, replay 2", ">", "price 2", by=0.3, note="replay holds the second round")
    run.plot_bars("gold", "length")
