"""RLAIF with the product's own loops: labels in one order and in both, and direct scores."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop
from evidence.product import method
from evidence.worlds.labellers import Labeller, OneOrder
from evidence.worlds.style import Row, Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks.ai_feedback import AIFeedback
from lit_align.callbacks.iterative_dpo import IterativeDPO
from lit_align.judges.llm_score import LLMScoreJudge

PROMPTS, STEPS, EPOCHS, RATE = 1200, 300, 20, 5e-4


@experiment(
    claim="Labels averaged over both orders of the replies are right more often, and make a better policy",
    paper="RLAIF, arXiv 2309.00267",
    world=(
        "Texts, W1: 12 topics with five good words each. The labeller knows what answers are worth, is asked through "
        "the product's own judges, and has log-odds of 2 for the reply that is shown first."
    ),
    budget=f"2 answers to each of {PROMPTS} prompts, {STEPS} steps of 64 pairs, AdamW {RATE:g} falling to 0, beta 0.5",
    seeds=3,
    discussion=(
        "accuracy: share of labels that prefer the better of two answers of different worth. The direct scores are of "
        "the same labeller, from 1 to 10, expected, each of one answer by itself, so that no order can mislead it."
    ),
)
def loops_ai_feedback(run: Run) -> None:
    """Soft labels in both orders, in one order, hard ones in one order; and pairs by direct scores."""
    world, arms = Style(), Arms(run)
    soft, hard = method("SoftDPO", beta=0.5), method("DPO", beta=0.5)
    if len(run.present(soft, hard)) < 2:
        return
    steps = max(EPOCHS, run.steps(STEPS) // EPOCHS * EPOCHS)
    prompts, evaluated = max(128, run.steps(PROMPTS)), max(64, run.steps(2048))
    for seed in range(run.seeds):
        policy = base_policy(world, world.demonstrations(4096, seed), seed, steps=run.steps(400))
        arms.add("base", **evaluate(policy, world, evaluated))
        rows = world.prompt_rows(prompts, seed + 1)
        how = {**LOOP, "epochs_per_round": EPOCHS, "seed": seed, "rounds": 1}
        labeller = Labeller(world)
        scores = LLMScoreJudge(labeller, low=1, high=10)
        for label, learns, loop in (
            ("both orders", soft, AIFeedback(labeller=labeller, **how)),
            ("one order", soft, AIFeedback(judge=OneOrder(labeller), **how)),
            ("one order, hard", hard, AIFeedback(judge=OneOrder(labeller), labels="hard", **how)),
            ("direct scores", hard, IterativeDPO(scores, samples=2, **how)),
        ):
            trained = run_loop(learns, policy, rows, loop, steps=steps, seed=seed, learning_rate=RATE, exact=False)
            arms.add(
                label, accuracy=_accuracy(world, trained.rounds[0]), **evaluate(trained.policies[0], world, evaluated)
            )
            if label == "both orders":
                arms.add(label, **{name: trained.manifests[0]["feedback"][name] for name in ("same_place_wins",)})
    arms.measure("gold", "accuracy", "same_place_wins")
    run.expect("accuracy", "both orders", ">", "one order", by=0.1)
    run.expect("gold", "both orders", ">", "one order", by=0.04)
    run.expect("gold", "both orders", ">", "one order, hard")
    run.expect("gold", "direct scores", ">", "base", by=0.2)
    run.compare_with_spec("accuracy", "one order", (0.768, 0.769, 0.784))
    run.compare_with_spec("gold", "one order, hard", (1.477, 1.550, 1.411))
    run.compare_with_spec("gold", "one order", (1.490, 1.572, 1.421))
    run.compare_with_spec("gold", "both orders", (1.570, 1.689, 1.514))
    run.plot_bars("gold", "accuracy")


def _accuracy(world: Style, rows: list[Row]) -> float:
    """Share of pairs of different worth whose chosen answer is the better one."""
    gaps = [world.gold(row["prompt"], row["chosen"]) - world.gold(row["prompt"], row["rejected"]) for row in rows]
    told = [gap > 0 for gap in gaps if gap]
    return sum(told) / len(told)
