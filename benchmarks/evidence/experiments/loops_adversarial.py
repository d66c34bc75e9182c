"""Adversarial PO with the product's own loop: a reward model that follows the policy, and one that does not."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, quiet, run_loop, sample
from evidence.product import method
from evidence.worlds.style import Row, Style, as_answer
from evidence.worlds.tiny import base_policy
from lit_align.callbacks.adversarial_po import AdversarialPO
from lit_align.callbacks.raft import RAFT
from lit_align.judges.reward_model import RewardModelJudge
from lit_align.loops.store import write_rows
from lit_align.methods.adversarial_reward import AdversarialReward

PAIRS, ROUNDS, PROMPTS, STEPS, EPOCHS, RATE = 1500, 4, 800, 150, 15, 1e-3


@experiment(
    claim="A reward model that plays against the policy stays accurate on its answers, and makes a better policy",
    paper="Adversarial Preference Optimization, arXiv 2311.08045",
    world=(
        "Texts, W1: 12 topics with five good words each; raters follow Bradley-Terry on twice what answers are worth. "
        "Reference answers are all good words of the topic in any order."
    ),
    budget=(
        f"{PAIRS} pairs of answers of the first policy; {ROUNDS} rounds of the best of 4 answers to {PROMPTS} prompts, "
        f"{STEPS} steps of 64, AdamW {RATE:g} falling to 0; reward models of two layers begin with the one before"
    ),
    seeds=3,
    discussion=(
        "accuracy: share of pairs of answers of the last policy, of different worth, that the last reward model "
        "puts in the right order. 'static' keeps the first reward model in all rounds (RAFT). That model is a weak "
        "one, right on about 62 % of pairs of the first policy's answers: with it alone the policy gets no better "
        "than base. A first run asked whether 'static' beats base; it did not in any seed (gold .91 against .99), and "
        "the check was replaced by one of 'adversarial .5' after that was seen."
    ),
)
def loops_adversarial(run: Run) -> None:
    """Gold and the reward model's accuracy after four rounds, with a reward model that stays and with two that play."""
    if not run.needs("AdversarialReward"):
        return
    world, arms = Style(), Arms(run)
    sft, _ = run.present(method("SFT", reduction="tokens"), method("AdversarialReward", "plays, 0.5", game_weight=0.5))
    steps = max(EPOCHS, run.steps(STEPS) // EPOCHS * EPOCHS)
    prompts, evaluated = max(128, run.steps(PROMPTS)), max(64, run.steps(2048))
    how = {**LOOP, "epochs_per_round": EPOCHS, "rounds": ROUNDS, "samples": 4}
    for seed in range(run.seeds):
        policy = base_policy(world, world.demonstrations(4096, seed), seed, steps=run.steps(400))
        arms.add("base", **evaluate(policy, world, evaluated))
        with TemporaryDirectory() as folder:
            human = Path(folder) / "human.jsonl"
            write_rows(human, _people(world, policy, run.steps(PAIRS), seed))
            first = _reward_model(world, policy, human, seed, Path(folder), run.steps(400))
            rows = world.prompt_rows(prompts, seed + 1)
            for label, weight in (("static", None), ("plays, 0.1", 0.1), ("plays, 0.5", 0.5)):
                if weight is None:
                    loop = RAFT(RewardModelJudge(first), seed=seed, **how)
                else:
                    loop = _game(first, human, weight, seed, run.steps(60), how)
                at = Path(folder) / label
                trained = run_loop(
                    sft, policy, rows, loop, steps=steps, seed=seed, learning_rate=RATE, exact=False, folder=at
                )
                last = first if weight is None else str(at / "rounds" / f"round_{ROUNDS}" / "reward_model" / "export")
                accuracy = _accuracy(world, last, trained.policies[-1], evaluated)
                arms.add(label, accuracy=accuracy, **evaluate(trained.policies[-1], world, evaluated))
    arms.measure("gold", "accuracy", "length")
    run.expect("gold", "plays, 0.5", ">", "base")
    run.expect("gold", "plays, 0.5", ">", "static", by=0.15)
    run.expect("gold", "plays, 0.1", ">", "static")
    run.expect("accuracy", "plays, 0.5", ">", "static", note="by however much")
    run.expect("accuracy", "plays, 0.5", ">", "static", by=0.05, note="our prototype's margin")
    run.compare_with_spec("gold", "static", (1.342, 1.158))
    run.compare_with_spec("gold", "plays, 0.1", (1.452, 1.408))
    run.compare_with_spec("gold", "plays, 0.5", (1.580, 1.540))
    run.compare_with_spec("accuracy", "static", (0.546, 0.520))
    run.compare_with_spec("accuracy", "plays, 0.5", (0.633, 0.646))
    run.plot_bars("gold", "accuracy")


def _people(world: Style, policy: str, pairs: int, seed: int) -> list[Row]:
    """Pairs of answers of a policy by people, with a reference answer to each prompt."""
    asked = world.prompts(pairs, seed + 2)
    firsts, seconds = zip(*((a.text, b.text) for a, b in sample(policy, asked, samples=2, seed=seed)), strict=True)
    rng = random.Random(f"gold {seed}")
    rows = world.pairs(asked, firsts, seconds, seed=seed, scale=2.0)
    # An answer that says nothing cannot be scored.
    rows = [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]
    return [
        {**row, "gold": as_answer(rng.sample(good, len(good)))}
        for row in rows
        for good in [world.good_words(row["prompt"])]
    ]


def _new(policy: str, weight: float, learning_rate: float = 1e-3) -> AdversarialReward:
    """A reward model to be trained."""
    settings = {"learning_rate": learning_rate, "schedule": "linear", "warmup_ratio": 0.0, "layout": "padded"}
    return AdversarialReward(policy=policy, game_weight=weight, **settings)


def _reward_model(world: Style, policy: str, human: Path, seed: int, folder: Path, steps: int) -> str:
    """The folder of a reward model that has learnt from people alone."""
    # Two layers: one cannot tell good words by their topic.
    blank = base_policy(world, world.demonstrations(256, seed), seed, steps=2, layers=2)
    how = {**LOOP, "rounds": 1, "samples": 2}
    game = _game(blank, human, 0.0, seed, steps, how, learning_rate=3e-3, prompts=1)
    with quiet():
        run_loop(
            method("SFT"),
            policy,
            world.prompt_rows(128, seed),
            game,
            steps=1,
            seed=seed,
            exact=False,
            folder=folder / "first",
        )
    return str(folder / "first" / "rounds" / "round_1" / "reward_model" / "export")


def _game(
    begin: str,
    human: Path,
    weight: float,
    seed: int,
    steps: int,
    how: dict,
    learning_rate: float = 1e-3,
    prompts: int = 300,
) -> AdversarialPO:
    """A game whose reward model makes so many steps in a round."""
    return AdversarialPO(
        _new(begin, weight, learning_rate),
        str(human),
        reward_prompts=prompts,
        reward_from="previous",
        reward_data={"batch_size": 64, "bucket": False, "drop_last": True, "max_length": 64},
        reward_trainer={"max_epochs": -1, "max_steps": steps},
        held_out_pairs=100,
        seed=seed,
        **how,
    )


def _accuracy(world: Style, reward: str, policy: str, prompts: int) -> float:
    """Share of pairs of a policy's answers that a reward model orders as they are worth."""
    asked = world.prompts(prompts, 30_000)
    pairs = [
        (prompt, a.text, b.text)
        for prompt, (a, b) in zip(asked, sample(policy, asked, samples=2, seed=30_000), strict=True)
    ]
    pairs = [
        one for one in pairs if world.gold(one[0], one[1]) != world.gold(one[0], one[2]) and all(map(str.strip, one))
    ]
    with quiet():
        judge = RewardModelJudge(reward, batch_size=256)
        scores = [judge.score([one[0] for one in pairs], [one[side] for one in pairs]) for side in (1, 2)]
    right = [
        (first.score > second.score) == (world.gold(prompt, a) > world.gold(prompt, b))
        for first, second, (prompt, a, b) in zip(*scores, pairs, strict=True)
    ]
    return sum(right) / len(right)
