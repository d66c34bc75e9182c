"""SPIN, with the product's own loop."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop
from evidence.product import method
from evidence.worlds.style import Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks.spin import SPIN

ROUNDS, EPOCHS, STEPS, RATE = 4, 6, 150, 3e-4


@experiment(
    claim="SPIN: playing against itself, a model learns more from its demonstrations round by round",
    paper="SPIN, arXiv 2401.01335",
    world=(
        "Texts, W2: 12 topics with five good words each; people say all five, each once, in any order. A GPT-2 of one "
        "layer of width 32, fine-tuned too shortly on 2048 demonstrations."
    ),
    budget=f"{ROUNDS} rounds of {STEPS} steps of 64 pairs, AdamW {RATE:g} falling to 0 in each round, DPO beta 1",
    seeds=3,
    discussion=(
        "valid: share of answers, drawn at temperature 1 to 2048 prompts, that are a permutation of the good words. That "
        "SPIN beats going on with fine-tuning is not claimed: where demonstrations are drawn from what is to be "
        "learnt, more fine-tuning is the stronger baseline."
    ),
)
def loops_spin(run: Run) -> None:
    """Share of valid answers after each round; rounds that learn from the pairs before too, and an opponent that stays."""
    world, arms = Style(), Arms(run)
    (dpo,) = run.present(method("DPO", "SPIN", beta=1.0))
    steps = max(EPOCHS, run.steps(STEPS) // EPOCHS * EPOCHS)
    prompts = max(64, run.steps(2048))
    for seed in range(run.seeds):
        rows = world.permutations(max(512, run.steps(2048)), seed)
        policy = base_policy(world, rows, seed, steps=run.steps(90))
        arms.add("fine-tuned", **evaluate(policy, world, prompts))
        for label, rounds, settings in (
            ("SPIN", ROUNDS, {}),
            ("SPIN, own pairs only", ROUNDS, {"reuse": "none"}),
            ("SPIN, one opponent", 1, {}),
        ):
            loop = SPIN(rounds=rounds, epochs_per_round=EPOCHS * ROUNDS // rounds, seed=seed, **LOOP, **settings)
            trained = run_loop(
                dpo, policy, rows, loop, steps=steps * ROUNDS // rounds, seed=seed, learning_rate=RATE
            )
            arms.add(label, first_loss=max(trained.first_losses), **evaluate(trained.policies[-1], world, prompts))
            if label == "SPIN":
                for number, after in enumerate(trained.policies, start=1):
                    arms.add(f"round {number}", **evaluate(after, world, prompts))
    arms.measure("valid", "gold", "length", "finished", "first_loss")
    run.expect("valid", "SPIN", ">", "fine-tuned", by=0.04)
    run.expect_order("valid", "<", "fine-tuned", *(f"round {number}" for number in range(1, ROUNDS + 1)))
    run.expect("valid", "SPIN", ">", "SPIN, own pairs only", note="with the pairs of the round before")
    run.expect("valid", "SPIN", ">", "SPIN, one opponent", note="as many steps")
    run.expect("first_loss", "SPIN", "<", 0.693148, note="log 2: the reference is the round's beginning")
    run.plot_lines(
        "valid", "round", {"SPIN": {0.0: "fine-tuned"} | {float(n): f"round {n}" for n in range(1, ROUNDS + 1)}}
    )
