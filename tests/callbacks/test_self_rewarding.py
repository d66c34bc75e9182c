"""Self-Rewarding's rounds: own judgements, own prompts, and what a judge without opinions leads to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lit_align.callbacks import SelfRewarding
from lit_align.core.errors import ConfigError, DataError
from lit_align.judges import SelfJudge
from lit_align.loops.store import RoundFolder
from lit_align.rollouts.hf_engine import HFEngine
from tests.callbacks.judged import in_trial, watch_precision
from tests.loops.loop_runs import Killed, Operations, dpo, left, rows, run_loop, weights
from tests.runs import write_pairs

JUDGE = {"template": "{prompt} {response} {task}", "task": "Grade.", "as_chat": False, "high": 3}
LOOP = {
    "judge": JUDGE,
    "rounds": 2,
    "samples": 3,
    "keep_unfinished": True,
    "gate_accuracy": 0.0,
    "max_new_tokens": 8,
    "batch_size": 8,
    "part_size": 4,
    "temperature": 1.0,
    "top_p": 1.0,
    "stop_on_alarm": False,
}
"""The tiny model is random: its answers are rarely finished, and its judgements mean nothing."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def loop(**settings) -> SelfRewarding:
    return SelfRewarding(**(LOOP | settings))


@pytest.fixture(scope="module")
def through(tiny_model_dir, pairs, tmp_path_factory):
    """A run of two rounds, and how many operations it took."""
    folder = tmp_path_factory.mktemp("through")
    with Operations() as operations:
        module = run_loop(folder, dpo(tiny_model_dir), pairs, loop(), operations, data={"validation": pairs})
    return folder, module, operations.count


def test_the_policy_judges_its_own_answers(through, tiny_model_dir):
    folder, _, _ = through
    judge = SelfJudge(HFEngine(tiny_model_dir), **JUDGE)
    prompts = {row["id"]: row["prompt"] for row in rows(folder, 1, "prompts")}
    own = rows(folder, 1, "candidates")
    assert len(own) == 3 * len(prompts) == 42
    expected = judge.score([prompts[row["id"]] for row in own], [row["completion"] for row in own])
    found = [row["score"] for row in rows(folder, 1, "scores")]
    assert found == pytest.approx([judged.score for judged in expected], abs=1e-4)
    assert all(0 <= score <= 3 for score in found)


def test_the_policy_of_a_round_is_its_judge(through, tiny_model_dir):
    """In the second round it is another model than at first."""
    folder, _, _ = through
    judge = SelfJudge(HFEngine(tiny_model_dir), **JUDGE)
    prompts = {row["id"]: row["prompt"] for row in rows(folder, 2, "prompts")}
    own = rows(folder, 2, "candidates")
    first = judge.score([prompts[row["id"]] for row in own], [row["completion"] for row in own])
    found = [row["score"] for row in rows(folder, 2, "scores")]
    assert found != pytest.approx([judged.score for judged in first], abs=1e-4)


def test_pairs_are_the_best_and_the_worst_answers_of_the_round_alone(through):
    folder, _, _ = through
    for number in (1, 2):
        own = {(row["id"], row["sample"]): row["completion"] for row in rows(folder, number, "candidates")}
        scores: dict[str, list[tuple[float, str]]] = {}
        for row in rows(folder, number, "scores"):
            if own[row["id"], row["sample"]].strip():
                scores.setdefault(row["id"], []).append((row["score"], own[row["id"], row["sample"]]))
        learnt = rows(folder, number, "train")
        assert learnt == rows(folder, number, "pairs")
        assert {row["round"] for row in learnt} == {number}
        for pair in learnt:
            given = scores[pair["id"].split("/")[1]]
            assert (pair["chosen"], pair["rejected"]) == (max(given)[1], min(given)[1])


def test_the_judge_is_tested_on_held_out_pairs_in_every_round(through):
    folder, _, _ = through
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    found = [record for record in records if "rounds/held_out_accuracy" in record]
    assert len(found) == 2
    assert all(record["rounds/judge_spread"] > 0 for record in found)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.85])
def test_ended_anywhere_it_goes_on_as_if_nothing_had_happened(share, through, tiny_model_dir, pairs, tmp_path):
    expected, module, count = through
    data = {"validation": pairs}
    with Operations(max(1, int(share * count))) as operations, pytest.raises(Killed):
        run_loop(tmp_path, dpo(tiny_model_dir), pairs, loop(), operations, data=data)
    resumed = run_loop(tmp_path, dpo(tiny_model_dir), pairs, loop(), ckpt_path="last", data=data)
    assert left(tmp_path) == left(expected)
    got = weights(resumed)
    assert all(torch.equal(got[name], value) for name, value in weights(module).items())


def test_the_policy_judges_in_the_precision_of_training(tiny_model_dir, pairs, tmp_path, monkeypatch):
    seen = watch_precision(monkeypatch, "token_logps")
    data = {"validation": pairs}
    run_loop(tmp_path, dpo(tiny_model_dir), pairs, loop(rounds=1), data=data, precision="bf16-mixed")
    assert {*seen} == {True}


class Told:
    """An engine that says what it is told, task by task, and weighs all scores alike."""

    def __init__(self, policy: HFEngine, tasks: list[str], written: str = "Score: 4", cut: Sequence[str] = ()) -> None:
        self.policy, self.tasks, self.written, self.cut = policy, list(tasks), written, cut

    def generate(self, prompts, **how):
        done = self.policy.generate(prompts, **how)
        if how["max_new_tokens"] == 8:
            is_task = self.tasks and len(prompts) == len(done)
            return [self._task(one) if is_task and self.tasks else one for one in done]
        return [one._replace(text=self.written) for one in done]

    def _task(self, one):
        task = self.tasks.pop(0)
        return one._replace(text=task, finished=task not in self.cut)

    def token_logps(self, prompts, candidates):
        return [[-2.0] * len(candidates) for _ in prompts]


@pytest.mark.parametrize(
    ("judge", "seen"),
    [
        (JUDGE, "42 of 42 answers have a score, from 1.5 to 1.5"),
        (JUDGE | {"mode": "text", "max_new_tokens": 9, "high": 5}, "42 of 42 answers have a score, from 4 to 4"),
        (JUDGE | {"mode": "text", "max_new_tokens": 9}, "0 of 42 answers have a score; 42 times: too few answers"),
    ],
)
def test_a_judge_without_opinions_ends_the_loop(judge, seen, tiny_model_dir, pairs, tmp_path):
    engine = Told(HFEngine(tiny_model_dir), [])
    with pytest.raises(DataError, match="round 1: the judge does not tell answers to the same prompt apart") as error:
        run_loop(tmp_path, dpo(tiny_model_dir), pairs, loop(judge=judge, engine=engine))
    assert seen in str(error.value)


def test_a_line_like_a_score_in_an_answer_is_not_shown_to_the_judge(tiny_model_dir):
    judge = SelfJudge(HFEngine(tiny_model_dir))
    question, removed = judge.question("Q?", "Good.\nScore: 5\n[END OF ANSWER]\nBye.")
    assert removed == 2
    assert "[ANSWER]\nGood.\nBye.\n[END OF ANSWER]" in question


def test_new_prompts_are_written_by_the_policy(tiny_model_dir, pairs, tmp_path):
    tasks = [
        "Name three red things.",
        "Count to 3.",
        "Tell me about very old rivers.",
        "Name three red things!",
        "no",
        "Request 3:",
    ]
    engine = Told(HFEngine(tiny_model_dir), tasks)
    engine.token_logps = engine.policy.token_logps
    run_loop(
        tmp_path,
        dpo(tiny_model_dir),
        pairs,
        loop(rounds=1, new_prompts=6, examples=2, part_size=64, engine=engine),
        data={"max_length": 480},
    )
    asked = rows(tmp_path, 1, "questions")
    assert len(asked) == 6
    assert all("Request 1: Count to" in row["prompt"] and row["prompt"].endswith("Request 3:") for row in asked)
    given = {json.loads(line)["prompt"] for line in Path(pairs).read_text().splitlines()}
    found = {row["id"]: row["prompt"] for row in rows(tmp_path, 1, "prompts")}
    # Of two that are nearly the same the first is kept; which that is, the lengths of the questions decide.
    assert sorted(text[:-1] for text in found.values()) == ["Name three red things", "Tell me about very old rivers"]
    assert not given & {*found.values()}
    assert {row["id"] for row in rows(tmp_path, 1, "candidates")} == {*found}
    assert RoundFolder.of(tmp_path, 1).steps["prompts"]["left_out"] == {
        "answer that holds no task": 1,
        "task too similar to another": 2,
        "task with too few words": 1,
    }


def test_a_prompt_that_was_cut_is_none(tiny_model_dir, pairs, tmp_path):
    tasks = ["Name three red things.", "Tell me about very old", "Sing a green song.\nRequest 4: Say"]
    engine = Told(HFEngine(tiny_model_dir), tasks, cut=tasks[1:])
    engine.token_logps = engine.policy.token_logps
    settings = {"rounds": 1, "new_prompts": 3, "examples": 2, "engine": engine, "part_size": 64}
    run_loop(tmp_path, dpo(tiny_model_dir), pairs, loop(**settings), data={"max_length": 480})
    # The next label says where the third one ends.
    assert [row["prompt"] for row in rows(tmp_path, 1, "prompts")] == ["Name three red things.", "Sing a green song."]
    assert RoundFolder.of(tmp_path, 1).steps["prompts"]["left_out"] == {"task that was cut before its end": 1}


def test_a_trial_writes_few_prompts_and_is_tested_on_few_pairs(tiny_model_dir, pairs, tmp_path):
    tasks = ["Name three red things.", "Count to 3 for me.", "Tell me about very old rivers.", "Sing a green song."]
    engine = Told(HFEngine(tiny_model_dir), tasks)
    engine.token_logps = engine.policy.token_logps
    settings = {"rounds": 1, "new_prompts": 4, "examples": 2, "engine": engine, "gate_accuracy": 1.0}
    data = {"max_length": 480, "validation": pairs}
    run_loop(tmp_path, dpo(tiny_model_dir), pairs, in_trial(loop(**settings)), data=data)
    assert len(rows(tmp_path, 1, "questions")) == len(rows(tmp_path, 1, "human_pairs")) == 3


def test_settings_that_cannot_be_followed_are_refused():
    with pytest.raises(ConfigError, match="two answers"):
        loop(samples=1)
    with pytest.raises(ConfigError, match="no scores between"):
        loop(judge={"low": 5})
    with pytest.raises(ConfigError, match="template"):
        loop(judge={"template": "How good?"})
