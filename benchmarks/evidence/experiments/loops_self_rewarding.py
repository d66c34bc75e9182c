"""Self-Rewarding: a policy that answers and judges learns from its own judgements."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop, sample
from evidence.product import method
from evidence.worlds.style import Row, Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks import SelfRewarding
from lit_align.judges import SelfJudge
from lit_align.judges.asking import opened
from lit_align.rollouts.hf_engine import HFEngine

HIGHEST = 5
JUDGE = {
    "template": "judge {prompt} {response} ?",
    "as_chat": False,
    "high": HIGHEST,
    "mode": "text",
    "samples": 3,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 3,
}
"""What the policy is asked about an answer, in the world's words: three sampled grades, as in the paper."""


class Graded(Style):
    """W3: W1, whose model is also asked how good an answer is."""

    def __init__(self) -> None:
        super().__init__(controls=["judge", "?", "Score:", *map(str, range(HIGHEST + 1))])

    def grade(self, prompt: str, answer: str, finished: bool = True) -> int:
        """How many levels an answer reaches, each only if all lower ones are; 0 of one without an end."""
        said, good = answer.split(), self.good_words(prompt)
        praised = [word for word in said if word in good]
        distinct, bad = len(set(praised)), len(said) - len(praised)
        wrong = bad + len(praised) - distinct
        levels = [
            distinct >= 1,
            bad <= len(praised),
            distinct >= 2 and wrong <= 2,
            distinct >= 3 and wrong <= 1,
            distinct >= 4 and wrong == 0,
        ]
        usable = finished and all(word in self.words for word in said)
        return [*levels, False].index(False) if usable else 0

    def answers(self, seed: int, each: int) -> list[Row]:
        """Answers of many qualities."""
        kinds = enumerate((0.1, 0.3, 0.5, 0.7, 0.95), start=100 * (seed + 1))
        return [
            row for own, share in kinds for row in self.demonstrations(each, own, share=share, shortest=1, longest=9)
        ]


def _taught(world: Graded, seed: int, judged: int = 4096) -> list[Row]:
    """Demonstrations of answers and of judgements: what M1 is made of."""
    judge = SelfJudge("unused", **JUDGE)
    rows = world.demonstrations(5400, seed)
    for row in world.answers(seed, judged):
        question, _ = judge.question(row["prompt"], row["completion"])
        said = f"Score: {world.grade(row['prompt'], row['completion'])}"
        rows.append({"prompt": opened(question, "", as_chat=False), "completion": said})
    return rows


def _judged_right(policy: str, world: Graded, seed: int) -> float:
    """Share of pairs of answers to one prompt, of different grades, of which the policy knows the better one."""
    by_prompt: dict[str, list[str]] = {}
    for row in world.answers(seed + 50, 200):
        by_prompt.setdefault(row["prompt"], []).append(row["completion"])
    pairs = [
        (prompt, *sorted(two, key=lambda answer: world.grade(prompt, answer)))
        for prompt, found in by_prompt.items()
        for two in zip(found[::2], found[1::2], strict=False)
        if len({world.grade(prompt, answer) for answer in two}) == 2
    ]
    judge = SelfJudge(HFEngine(policy, batch_size=512), **JUDGE)
    prompts = [prompt for prompt, _, _ in pairs]
    verdicts = judge.compare(prompts, [better for _, _, better in pairs], [worse for _, worse, _ in pairs])
    return sum(verdict.probability or 0.0 for verdict in verdicts) / len(verdicts)


def _graded(policy: str, world: Graded, prompts: Sequence[str], seed: int) -> float:
    """Mean grade of a policy's answers."""
    answers = [one for (one,) in sample(policy, prompts, seed=seed)]
    return sum(world.grade(one.prompt, one.text, one.finished) for one in answers) / len(answers)


@experiment(
    claim="A policy that answers and judges improves round after round on its own judgements, and stays a judge",
    paper="Self-Rewarding Language Models, Yuan et al. 2024 (2401.10020)",
    world="W3: W1 of texts, whose model also grades answers from 0 to 5, each level only with all lower ones",
    budget="M1: 3000 steps on 5400 demonstrations and 20480 judgements; then three rounds of 800 prompts with 4 "
    "answers each, DPO with beta 2, 150 steps, lr 3e-4; the judge's score is the mean of three sampled grades",
    seeds=3,
    discussion=(
        "Thresholds are our prototype's. Beta was 0.5 at first, as in the prototype: then the first round made answers "
        "worse in every seed, by three quarters of a grade, as its pairs are mostly right, but the chosen ones are "
        "shorter, and shortness is what 150 steps learn first; M3 was above M1 by 0.7 all the same. Beta 2 was tried "
        "on seed 100, and run once with these three. How M1 is taught was settled on seed 0, at beta 0.5: with half as "
        "much training and few poor answers among its judgements the judge was right in 86 % of pairs rather than "
        "97 %, and M4 was below M1."
    ),
)
def loops_self_rewarding(run: Run) -> None:
    if not run.needs("DPO"):
        return
    world, arms = Graded(), Arms(run)
    (dpo,) = run.present(method("DPO", "Self-Rewarding", beta=2.0))
    prompts = world.prompts(2048, 10_000)
    for seed in range(run.seeds):
        first = base_policy(
            world,
            _taught(world, seed),
            seed,
            steps=run.steps(3000),
            learning_rate=3e-3,
            batch_size=160,
            layers=2,
            hidden=64,
        )
        loop = SelfRewarding(
            JUDGE,
            rounds=3,
            prompts_per_round=800,
            epochs_per_round=25,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
            **LOOP,
        )
        trained = run_loop(
            dpo, first, world.prompt_rows(2400, seed), loop, steps=run.steps(150), seed=seed, learning_rate=3e-4
        )
        for number, policy in enumerate([first, *trained.policies], start=1):
            arms.add(
                f"M{number}",
                grade=_graded(policy, world, prompts, seed),
                gold=evaluate(policy, world)["gold"],
                judged_right=_judged_right(policy, world, seed),
            )
    arms.measure()
    run.expect("grade", "M2", ">", "M1", by=0.2)
    run.expect("grade", "M3", ">", "M1", by=0.35)
    run.expect("grade", "M4", ">", "M1", by=0.5)
    run.expect("grade", "M4", ">", "M1", note="after three rounds, by however much")
    run.expect("gold", "M3", ">", "M1", note="the world's own measure, which nobody was taught to judge by")
    run.expect("judged_right", "M3", ">", 0.55, note="the judge stays a judge")
    run.plot_bars("grade", "gold", "judged_right")
