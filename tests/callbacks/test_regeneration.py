"""What all loops share: schedules and optimisers by round, engines of their own, guards, rounds made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lit_align.__main__ import main
from lit_align.callbacks import SPIN, RunReport
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.core.pretrained import load_tokenizer
from lit_align.judges.base import Judged, PointwiseJudge
from lit_align.loops.guards import Limits
from lit_align.loops.store import RoundFolder
from lit_align.methods.dpo import DPO
from lit_align.rollouts.engine import Completion
from tests.loops.loop_runs import (
    Killed,
    Operations,
    dpo,
    left,
    rows,
    run_loop,
    weights,
    write_demonstrations,
)

LOOP = {"rounds": 2, "max_new_tokens": 8, "part_size": 4, "keep_unfinished": True, "stop_on_alarm": False}


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_demonstrations(tmp_path_factory.mktemp("seed"))


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


class Looks(Callback):
    """Keeps what there is at the first step of every epoch."""

    def __init__(self) -> None:
        self.states: list[int] = []
        self.betas: list[float] = []

    def on_train_epoch_start(self, trainer, module) -> None:
        self.states.append(len(trainer.optimizers[0].state))
        self.betas.append(module.beta)


def test_schedule_and_optimiser_begin_anew_with_every_round(tiny_model_dir, seed_file, tmp_path):
    looks = Looks()
    module = DPO(policy=tiny_model_dir, beta=0.5, learning_rate=1e-3, warmup_ratio=0.5, schedule="linear")
    settings = LOOP | {"reuse": "none", "per_round": {2: {"learning_rate": 1e-4, "beta": 2.0}}}
    run_loop(tmp_path, module, seed_file, SPIN(**settings), looks)
    rates = [record["learning_rate"] for record in records(tmp_path) if "learning_rate" in record]
    # Ten rows, four to a step: three steps, of which two are warm-up.
    shape = [1 / 3, 2 / 3, 1.0]
    assert rates == pytest.approx([1e-3 * part for part in shape] + [1e-4 * part for part in shape])
    assert looks.states == [0, 0]
    assert looks.betas == [0.5, 2.0]


def test_schedule_and_optimiser_may_span_the_run(tiny_model_dir, seed_file, tmp_path):
    looks = Looks()
    module = DPO(policy=tiny_model_dir, learning_rate=1e-3, warmup_ratio=0.0, schedule="linear")
    settings = LOOP | {"reuse": "none", "schedule": "run", "fresh_optimizer": False}
    run_loop(tmp_path, module, seed_file, SPIN(**settings), looks)
    rates = [record["learning_rate"] for record in records(tmp_path) if "learning_rate" in record]
    assert rates == pytest.approx([1e-3 * (1 - step / 6) for step in range(6)])
    assert looks.states[0] == 0 < looks.states[1]


def test_a_schedule_over_the_run_ends_with_it_however_rounds_grow(tiny_model_dir, seed_file, tmp_path):
    module = DPO(policy=tiny_model_dir, learning_rate=1e-3, warmup_ratio=0.0, schedule="linear")
    settings = LOOP | {"rounds": 3, "reuse": "all", "schedule": "run", "fresh_optimizer": False}
    run_loop(tmp_path, module, seed_file, SPIN(**settings))
    rates = [record["learning_rate"] for record in records(tmp_path) if "learning_rate" in record]
    # Rounds of 3, 5 and 8 steps, each counted on to be as long as the present one.
    totals = [9] * 3 + [3 + 2 * 5] * 5 + [16] * 8
    assert rates == pytest.approx([1e-3 * (1 - step / total) for step, total in enumerate(totals)])


class StopInside(Callback):
    """Ends a run inside an epoch, as early stopping may."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        trainer.should_stop = trainer.global_step == self.step


def test_a_run_stopped_inside_a_round_goes_on_from_its_beginning(tiny_model_dir, seed_file, tmp_path):
    through = run_loop(tmp_path / "through", dpo(tiny_model_dir), seed_file, SPIN(**LOOP))
    run = tmp_path / "stopped"
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), StopInside(4))
    with pytest.raises(ConfigError, match="stopped inside a round") as error:
        run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path="last")
    start = run / "rounds" / "round_2" / "start.ckpt"
    assert str(start) in str(error.value)
    resumed = run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path=str(start))
    expected = weights(through)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_rounds_of_several_epochs_are_made_once(tiny_model_dir, seed_file, tmp_path):
    settings = LOOP | {"epochs_per_round": 2, "reuse": "all"}
    through = run_loop(tmp_path / "through", dpo(tiny_model_dir), seed_file, SPIN(**settings))
    with Operations(45) as operations, pytest.raises(Killed):
        run_loop(tmp_path / "killed", dpo(tiny_model_dir), seed_file, SPIN(**settings), operations)
    resumed = run_loop(tmp_path / "killed", dpo(tiny_model_dir), seed_file, SPIN(**settings), ckpt_path="last")
    assert left(tmp_path / "killed") == left(tmp_path / "through")
    expected = weights(through)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    with pytest.raises(ConfigError, match="rounds of another length"):
        run_loop(tmp_path / "killed", dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path="last")


def test_parts_of_another_size_are_not_mixed_with_those_of_a_killed_run(tiny_model_dir, seed_file, tmp_path):
    def make(folder, part_size, last=None):
        with Operations(last) as operations:
            run_loop(folder, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"part_size": part_size})), operations)

    with pytest.raises(Killed):
        # After the first part of the first round.
        make(tmp_path / "killed", 8, last=20)
    make(tmp_path / "killed", 4)
    make(tmp_path / "through", 4)
    assert left(tmp_path / "killed") == left(tmp_path / "through")


def test_settings_of_the_data_make_other_rounds(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), data={"separator": ": "})
    first = rows(tmp_path, 1, "candidates")
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"rounds": 1})))
    assert rows(tmp_path, 1, "candidates") != first
    # The second round was made by a policy that had learnt from the first.
    assert (tmp_path / "rounds" / "stale" / "round_2").is_dir()


def test_a_trial_leaves_the_rounds_alone(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP))
    before = left(tmp_path)
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP, temperature=0.5), fast_dev_run=True)
    after = left(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(rows(tmp_path / "fast_dev_run", 1, "prompts")) == 8


def test_seed_rows_that_are_left_out_are_reported(tiny_model_dir, seed_file, tmp_path):
    path = tmp_path / "seed.jsonl"
    path.write_text(Path(seed_file).read_text() + '{"prompt": "Say.", "completion": ""}\n')
    loop, lenient = SPIN(**(LOOP | {"rounds": 1})), {"on_bad_row": "drop"}
    run_loop(tmp_path / "run", dpo(tiny_model_dir), str(path), loop, data=lenient)
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert (report["seed"]["read"], report["seed"]["kept"]) == (11, 10)
    assert sum(tally["total"] for tally in report["seed"]["dropped"].values()) == 1


def test_an_edited_round_is_not_used_again_unless_accepted(tiny_model_dir, seed_file, tmp_path):
    with Operations() as operations:
        operations.last = 60
        with pytest.raises(Killed):
            run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"rounds": 3})), operations)
    assert not RoundFolder.of(tmp_path, 3).steps
    path = tmp_path / "rounds" / "round_1" / "train.jsonl"
    path.write_text(path.read_text().replace("Name", "Tell"))
    with pytest.raises(DataError, match="step 'train' of round 1 was changed"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"rounds": 3, "reuse": "all"})),
                 ckpt_path="last")  # fmt: skip


def test_the_reference_may_stay(tiny_model_dir, seed_file, tmp_path):
    module = run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP, reference="initial"))
    first = build_policy(PolicySpec(tiny_model_dir))
    kept = zip(module.reference.parameters(), first.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in kept)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"per_round": {2: {"gamma": 1.0}}}, "no such setting for a round"),
        ({"per_round": {3: {"beta": 1.0}}}, "no such setting for a round"),
        ({"per_round": {2: {"beta": -1.0}}}, "out of range"),
        ({"max_new_tokens": 96}, "leave no room for prompts"),
        ({"rounds": 0}, "out of range"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words, tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match=words):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | settings)))


@pytest.mark.parametrize(
    ("data", "trainer", "words"),
    [
        ({"streaming": True}, {}, "streaming"),
        ({"val_split": 2}, {}, "val_split"),
        ({"balance_lengths": "downsample"}, {}, "balance_lengths"),
        ({}, {"max_epochs": 7}, "decides how long the run is"),
    ],
)
def test_settings_of_ordinary_runs_are_refused(data, trainer, words, tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match=words):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), data=data, **trainer)


def test_a_precomputed_reference_is_refused(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match="precomputed"):
        run_loop(tmp_path, dpo(tiny_model_dir, reference="precomputed"), seed_file, SPIN(**LOOP))


def test_prompts_of_a_round_are_the_next_ones_and_come_again_when_all_had_their_turn(
    tiny_model_dir, seed_file, tmp_path
):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"rounds": 3}), prompts_per_round=4))
    asked = [[row["id"] for row in rows(tmp_path, number, "prompts")] for number in (1, 2, 3)]
    assert len({*asked[0], *asked[1], *asked[2][:2]}) == 10
    assert [name.endswith("'1") for name in asked[2]] == [False, False, True, True]


# -------------------------------------------------------------------- engines, judges, guards


class Elsewhere:
    """An engine with weights of its own."""

    def __init__(self) -> None:
        self.synced: list[dict[str, torch.Tensor]] = []

    def sync(self, folder) -> None:
        self.tokenizer = load_tokenizer(str(folder))
        self.synced.append(build_policy(PolicySpec(str(folder))).state_dict())

    def generate(self, prompts, *, samples=1, **settings):
        ids = [*self.tokenizer(" so", add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return [Completion(prompt, " so", ids, True) for prompt in prompts for _ in range(samples)]


def test_an_engine_with_weights_of_its_own_gets_those_of_every_round(tiny_model_dir, seed_file, tmp_path):
    engine = Elsewhere()
    module = run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP, engine=engine))
    first = build_policy(PolicySpec(tiny_model_dir)).state_dict()
    assert len(engine.synced) == 2
    assert all(torch.equal(engine.synced[0][name], value) for name, value in first.items())
    # The second is what the first round's training made, and not yet what the second's did.
    second, last = engine.synced[1]["lm_head.weight"], weights(module)["model.lm_head.weight"]
    assert not torch.equal(second, first["lm_head.weight"])
    assert not torch.equal(second, last)
    assert {row["completion"] for row in rows(tmp_path, 2, "candidates")} == {" so"}


def test_a_process_that_goes_on_gives_its_engine_the_weights_whatever_is_there(tiny_model_dir, seed_file, tmp_path):
    class Ends(Callback):
        def on_train_batch_start(self, trainer, *args) -> None:
            if trainer.current_epoch == 1:
                raise Killed

    with pytest.raises(Killed):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP, engine=Elsewhere()), Ends(), save_every=1000)
    engine = Elsewhere()
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP, engine=engine), ckpt_path="last", save_every=1000)
    first = build_policy(PolicySpec(tiny_model_dir)).state_dict()["lm_head.weight"]
    assert [torch.equal(weights["lm_head.weight"], first) for weights in engine.synced] == [False]


class Fixed(Elsewhere):
    """An engine that keeps the weights it was made with."""

    sync = property()  # type: ignore[assignment]

    def __init__(self, model: str, address: str = "here") -> None:
        self.tokenizer, self.address = load_tokenizer(model), address


def test_an_engine_that_takes_no_weights_is_told_of_and_told_apart(tiny_model_dir, seed_file, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("lit_align.callbacks.regeneration.rank_zero_warn", said.append)
    made_of = []
    for address in ("here", "there"):
        how = LOOP | {"rounds": 1, "engine": Fixed(tiny_model_dir, address)}
        run_loop(tmp_path / "run", dpo(tiny_model_dir), seed_file, SPIN(**how))
        made_of.append(RoundFolder.of(tmp_path / "run", 1).manifest["inputs"])
    assert made_of[0] != made_of[1]
    assert "SPIN.engine: Fixed takes no weights" in said[0]


class Falling(PointwiseJudge):
    """Likes the answers of each round less."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, prompts, completions, **columns):
        self.calls += 1
        return [Judged(-10.0 * self.calls + 0.1 * (place % 3)) for place in range(len(prompts))]


def test_a_guard_ends_the_run_and_the_model_of_the_round_before_stands(tiny_model_dir, seed_file, tmp_path):
    settings = LOOP | {"rounds": 3, "stop_on_alarm": True, "part_size": 64, "guards": Limits(length_stop=50.0,
                       unfinished_stop=1.0, ties_stop=1.0)}  # fmt: skip
    module = run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**settings, held_out_judge=Falling()))
    alarms = [json.loads(line) for line in (tmp_path / "alarms.jsonl").open()]
    names = {alarm["name"] for alarm in alarms}
    assert {"loop/held_out", "loop/stop"} <= names
    assert "the held-out judge has scored lower" in next(a["words"] for a in alarms if a["name"] == "loop/stop")
    assert module.trainer.global_step == 3
    assert RoundFolder.of(tmp_path, 2).manifest["stats"]["held_out_score"] < -15
    assert not RoundFolder.of(tmp_path, 3).manifest
    # Asked to go on, it says the same, and trains nothing.
    before = weights(module)
    again = run_loop(
        tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**settings, held_out_judge=Falling()), ckpt_path="last"
    )
    assert again.trainer.global_step == 3
    assert all(torch.equal(value, before[name]) for name, value in weights(again).items())


def test_figures_of_rounds_are_logged(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP))
    logged = [record for record in records(tmp_path) if "rounds/round" in record]
    assert [(record["step"], record["rounds/round"], record["rounds/candidates"]) for record in logged] == [
        (1, 1, 10), (4, 2, 10)]  # fmt: skip
    assert all(0 < record["rounds/mean_tokens"] <= 8 for record in logged)


# -------------------------------------------------------------------- looked at, edited, made again


@pytest.fixture(scope="module")
def made(tiny_model_dir, seed_file, tmp_path_factory):
    """A run of two rounds, with its report."""
    folder = tmp_path_factory.mktemp("made") / "run"
    run_loop(folder, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), RunReport())
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy to do something to."""
    return shutil.copytree(made, tmp_path / "run")


def test_rounds_are_listed_and_shown(run, capsys):
    assert main(["rounds", str(run)]) == 0
    listed = capsys.readouterr().out
    assert "round 1: SPIN, after step 0, ready to be learnt from" in listed
    assert "round 2: SPIN, after step 3, ready to be learnt from" in listed
    assert main(["rounds", str(run), "--show", "2", "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert json.dumps(rows(run, 2, "candidates")[0]["completion"], ensure_ascii=False) in shown
    assert main(["rounds", str(run / "rounds")]) == 2
    assert "there are no rounds" in capsys.readouterr().err


def test_a_round_is_previewed_as_the_model_sees_it(run, tiny_model_dir, seed_file, capsys):
    settings = ["--model", "DPO", "--model.policy", tiny_model_dir, "--data.train", seed_file]
    where = ["--trainer.default_root_dir", str(run), "--round", "2", "--rows", "1"]
    assert main(["preview", *settings, *where]) == 0
    shown = capsys.readouterr().out
    assert rows(run, 2, "train")[0]["chosen"] in shown
    where[where.index("--round") + 1] = "5"
    assert main(["preview", *settings, *where]) == 2
    assert "no rows to learn from" in capsys.readouterr().err


def test_an_edited_round_is_learnt_from_once_it_is_accepted(run, tiny_model_dir, seed_file, capsys):
    path = run / "rounds" / "round_2" / "pairs.jsonl"
    path.write_text(path.read_text().replace('"Name', '"Say'))
    assert main(["rounds", str(run)]) == 0
    assert "(changed since)" in capsys.readouterr().out
    assert main(["rounds", str(run), "--accept", "2"]) == 0
    said = capsys.readouterr().out
    start = run / "rounds" / "round_2" / "start.ckpt"
    assert f"--ckpt_path {start}" in said
    # A checkpoint inside the round has learnt from the rows as they were.
    _cut(run)
    with pytest.raises(ConfigError, match="data are not there"):
        run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path=str(run / "inside.ckpt"))
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path=str(start))
    assert all(row["prompt"].startswith("Say") for row in rows(run, 2, "train") if row["round"] == 2)


def test_a_row_written_by_hand_is_learnt_from_and_used_again(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP))
    file = tmp_path / "rounds" / "round_1" / "train.jsonl"
    file.write_text(file.read_text() + json.dumps({"prompt": "Say.", "chosen": " yes", "rejected": " no"}) + "\n")
    assert main(["rounds", str(tmp_path), "--accept", "1"]) == 0
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, SPIN(**LOOP))
    assert [row["chosen"] for row in rows(tmp_path, 2, "train") if row["prompt"] == "Say."] == [" yes"]


def _cut(run) -> None:
    """A checkpoint inside the second round."""
    checkpoints = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: int(path.stem[5:]))
    shutil.copy(next(path for path in checkpoints if int(path.stem[5:]) > 3), run / "inside.ckpt")


def test_settings_changed_inside_a_round_are_said_to_hold_from_the_next_one(
    run, tiny_model_dir, seed_file, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr("lit_align.callbacks.regeneration.rank_zero_warn", said.append)
    _cut(run)
    inside = str(run / "inside.ckpt")
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path=inside)
    assert not any("inside round" in words for words in said)
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**(LOOP | {"temperature": 0.5})), ckpt_path=inside)
    (words,) = (words for words in said if "inside round" in words)
    assert "SPIN: settings were changed inside round 2" in words
    assert "round_2/start.ckpt" in words


def test_a_round_made_again_is_the_same(run, tiny_model_dir, seed_file, capsys):
    before = {step: rows(run, 2, step) for step in ("candidates", "pairs", "train")}
    assert main(["rounds", str(run), "--redo", "2", "--step", "candidates"]) == 0
    assert "candidates, pairs, train" in capsys.readouterr().out
    start = run / "rounds" / "round_2" / "start.ckpt"
    run_loop(run, dpo(tiny_model_dir), seed_file, SPIN(**LOOP), ckpt_path=str(start))
    assert {step: rows(run, 2, step) for step in before} == before


def test_the_report_shows_the_rounds(made):
    page = (made / "report.html").read_text(encoding="utf-8")
    assert "What the rounds were made of" in page
    assert "the first and the last cannot be compared" in page
    numbers = json.loads((made / "report.json").read_text(encoding="utf-8"))
    table = next(table for table in numbers["tables"] if table["id"] == "round_steps")
    assert [row[:4] for row in table["rows"]] == [[1, 0, 10, 10], [2, 3, 10, 10]]
    assert any(figure["title"] == "Length of the answers" for figure in numbers["figures"])
    texts = [json.loads(line) for line in (made / "report_samples.jsonl").open(encoding="utf-8")]
    first = next(row for row in texts if row["samples"] == "round_answers")
    assert first["columns"] == ["round 1", "round 2"]
    assert first["texts"][1] == rows(made, 2, "candidates")[0]["completion"]


class Counting:
    """An engine whose answers to a prompt are all finished, and of different lengths."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def generate(self, prompts, *, samples=1, **settings):
        words = [" so" * (sample + 1) for sample in range(samples)]
        ids = [[*self.tokenizer(w, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id] for w in words]
        return [Completion(prompt, *answer, True) for prompt in prompts for answer in zip(words, ids, strict=True)]


class Short(PointwiseJudge):
    """Likes short answers."""

    def score(self, prompts, completions, **columns):
        return [Judged(-float(len(completion))) for completion in completions]


def test_the_loop_that_the_readme_shows_works(tiny_model_dir, seed_file, tmp_path):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    code = next(block for block in readme.split("```") if "class BestOfEight" in block).removeprefix("python\n")
    known: dict = {}
    exec(code, known)
    engine = Counting(load_tokenizer(tiny_model_dir))
    loop = known["BestOfEight"](Short(), rounds=1, max_new_tokens=32, engine=engine, stop_on_alarm=False)
    run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop)
    pairs = rows(tmp_path, 1, "pairs")
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {(" so", " so" * 8)}
    assert len(pairs) == 10
