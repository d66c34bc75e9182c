"""Online DPO: every step on answers of the policy as it is, and folders that do not pile up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from lit_align.callbacks import OnlineDPO, RegenerationCallback
from lit_align.core.errors import ConfigError, DataError
from lit_align.judges.base import Judged
from lit_align.loops.live import by_prompt
from lit_align.loops.store import round_folders
from tests.callbacks.judged import LOOP, Likes, Prefers, check_interrupted, write_prompts
from tests.loops.loop_runs import Killed, Operations, dpo, rows, run_loop, weights

SETTINGS = {name: value for name, value in LOOP.items() if name != "rounds"} | {"steps": 4}
DATA = {"batch_size": 2}


def loop(judge=None, **settings) -> OnlineDPO:
    return OnlineDPO(judge or Likes(), **(SETTINGS | settings))


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_prompts(tmp_path_factory.mktemp("seed"))


def _folders(folder) -> list[int]:
    return [one.number for one in round_folders(folder)]


@pytest.mark.parametrize("judge", [Likes, Prefers])
def test_every_step_has_prompts_of_its_own_and_the_better_of_two_answers(judge, tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(judge()), data=DATA)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in logged if "loss" in row] == [1, 2, 3, 4]
    policies = [one.manifest["policy"] for one in round_folders(tmp_path)]
    assert len(set(policies)) == 4
    for number in range(1, 5):
        assert len(rows(tmp_path, number, "prompts")) == 2
        answers = by_prompt(rows(tmp_path, number, "candidates"))
        for pair in rows(tmp_path, number, "train"):
            texts = sorted((row["completion"] for row in answers[pair["id"].split("/")[1]]), key=Likes().score_of)
            assert [pair["rejected"], pair["chosen"]] == texts


def test_the_judge_stays_in_memory_between_steps(tiny_model_dir, seed_file, tmp_path):
    for keep, released in ((True, 0), (False, 2)):
        judge = Likes()
        run_loop(tmp_path / str(keep), dpo(tiny_model_dir), seed_file, loop(judge, steps=2, keep_judge=keep), data=DATA)
        assert judge.released == released


def test_a_round_is_as_large_as_its_steps(tiny_model_dir, seed_file, tmp_path):
    settings = {"sample_every": 2, "passes": 2, "steps": 8}
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(**settings), data=DATA, accumulate_grad_batches=2)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in logged if "loss" in row] == list(range(1, 9))
    assert [len(rows(tmp_path, number, "prompts")) for number in _folders(tmp_path)] == [8, 8]


@pytest.mark.parametrize(("given", "part"), [({}, 8), ({"part_size": 16}, 16), ({"sample_every": 16}, 64)])
def test_no_process_is_without_prompts(given, part, monkeypatch):
    monkeypatch.setattr(RegenerationCallback, "setup", lambda *_: None)
    data = SimpleNamespace(batch_size=8, drop_last=False, max_tokens_per_batch=None)
    online = OnlineDPO(Likes(), **given)
    online.setup(SimpleNamespace(datamodule=data, accumulate_grad_batches=1, world_size=8), None, "fit")
    assert online.prompts_per_round == 64 * given.get("sample_every", 1)
    assert online.part_size == part


def test_the_schedule_spans_the_run(tiny_model_dir, seed_file, tmp_path):
    method = dpo(tiny_model_dir, schedule="linear")
    run_loop(tmp_path, method, seed_file, loop(), data=DATA)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    rates = [value for row in logged for name, value in row.items() if name == "learning_rate"]
    assert rates == pytest.approx([0.05 * (4 - step) / 4 for step in range(4)])


class _Undecided(Likes):
    """Finds all answers alike, the first times that it is asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def _score(self, prompts, completions, columns):
        self.times -= 1
        return [Judged(1.0)] * len(prompts) if self.times >= 0 else super()._score(prompts, completions, columns)


def test_prompts_are_answered_again_where_there_is_no_pair(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(_Undecided(2), steps=1), data=DATA)
    (folder,) = round_folders(tmp_path)
    assert folder.left_out() == {"pair of answers with equal scores": 4}
    assert rows(tmp_path, 1, "train") == rows(tmp_path, 1, "pairs_3")
    assert rows(tmp_path, 1, "candidates_3") != rows(tmp_path, 1, "candidates")


def test_a_step_without_any_pair_says_so(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(DataError, match="tells no two answers apart"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(_Undecided(99), attempts=2), data=DATA)


def test_unfinished_answers_lose(tiny_model_dir, seed_file, tmp_path):
    judged = loop(missing_eos_penalty=1e6, steps=2, max_new_tokens=60)
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, judged, data={"batch_size": 6})
    mixed = 0
    for number in _folders(tmp_path):
        finished = {(row["id"], row["sample"]): row["finished"] for row in rows(tmp_path, number, "candidates")}
        for pair in rows(tmp_path, number, "train"):
            _, name, which = pair["id"].split("/")
            best, worst = (finished[name, int(sample)] for sample in which.split("-"))
            mixed += best != worst
            assert best >= worst
    assert mixed


def test_checkpoints_are_not_asked_for_in_every_round(tiny_model_dir, seed_file, tmp_path, monkeypatch):
    from lit_align.callbacks import RunCheckpoint

    asked = []
    monkeypatch.setattr(RunCheckpoint, "request", lambda self: asked.append(1))
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(steps=6, save_every_rounds=3), data=DATA)
    assert len(asked) == 2


def test_old_rounds_go_when_no_checkpoint_needs_them(tiny_model_dir, seed_file, tmp_path):
    settings = {"steps": 12, "save_every_rounds": 4, "keep_rounds": 2}
    through = run_loop(tmp_path / "all", dpo(tiny_model_dir), seed_file, loop(steps=12, save_every_rounds=4), data=DATA)
    method = run_loop(tmp_path / "few", dpo(tiny_model_dir), seed_file, loop(**settings), data=DATA)
    assert _folders(tmp_path / "all") == list(range(1, 13))
    assert _folders(tmp_path / "few")[0] == 1
    assert len(_folders(tmp_path / "few")) < 7
    assert _folders(tmp_path / "few")[-2:] == [11, 12]
    assert all(torch.equal(value, weights(method)[name]) for name, value in weights(through).items())


@pytest.mark.parametrize("save_every", [2, 1000])
def test_it_goes_on_although_rounds_were_removed(save_every, tiny_model_dir, seed_file, tmp_path):
    how = {"data": DATA, "save_every": save_every}
    settings = {"steps": 12, "save_every_rounds": 2, "keep_rounds": 1, "passes": 2}
    with Operations() as operations:
        through = run_loop(tmp_path / "through", dpo(tiny_model_dir), seed_file, loop(**settings), operations, **how)
    expected = weights(through)
    with Operations(int(0.9 * operations.count)) as operations, pytest.raises(Killed):
        run_loop(tmp_path / "ended", dpo(tiny_model_dir), seed_file, loop(**settings), operations, **how)
    assert 2 not in _folders(tmp_path / "ended")
    resumed = run_loop(tmp_path / "ended", dpo(tiny_model_dir), seed_file, loop(**settings), ckpt_path="last", **how)
    got = weights(resumed)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_it_survives_being_ended_anywhere(tiny_model_dir, seed_file, tmp_path):
    check_interrupted(tmp_path, lambda: (dpo(tiny_model_dir), loop(save_every_rounds=2)), seed_file)


@pytest.mark.parametrize("settings", [{"samples": 1}, {"steps": 0}, {"passes": 0}, {"attempts": 0}, {"keep_rounds": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        loop(**settings)


@pytest.mark.parametrize("data", [{"drop_last": True}, {"max_tokens_per_batch": 64}])
def test_batches_that_leave_out_pairs_are_refused(data, tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match="learns from the pairs that it has"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop(), data=data)
