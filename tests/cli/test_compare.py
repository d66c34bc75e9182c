"""`lit-align compare`: what it plans, refuses, trains, measures, and how it goes on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lit_align.__main__ import main
from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.evaluation.held_out import Asking
from lit_align.tools import compare_runs
from lit_align.tools.compare import read_own, read_seeds
from lit_align.tools.compare_plan import make_plan
from lit_align.tools.compare_settings import Wanted, method_slugs
from lit_align.tools.one_at_a_time import alone

WORDS = ["red", "green", "blue", "gold", "pink", "grey", "teal", "plum", "rust", "sand"]


class Place(NamedTuple):
    """A folder with a configuration, data and a model."""

    folder: Path
    config: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(words: list[str]) -> list[dict[str, Any]]:
    return [{"prompt": f"say {word} ", "chosen": f"{word} it is", "rejected": "no"} for word in words]


def make_place(folder: Path, model: str) -> Place:
    """A method's configuration with arguments of its own, as a user would have one."""
    config = {
        "seed_everything": 7,
        "model": {
            "class_path": "DPO",
            "init_args": {"policy": model, "beta": 0.7, "learning_rate": 1e-2, "schedule": "constant"},
        },
        "data": {
            "train": write_rows(folder / "train.jsonl", pairs(WORDS[:6])),
            "validation": write_rows(folder / "held_out.jsonl", pairs(WORDS[6:])),
            "batch_size": 2,
            "max_length": 64,
            "cache_dir": str(folder / "cache"),
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [{"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 1}}],
        },
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return Place(folder, path)


@pytest.fixture
def place(tmp_path, tiny_model_dir) -> Place:
    return make_place(tmp_path, tiny_model_dir)


def compare(place: Place, *arguments: str, methods: str = "dpo,kto", seeds: str = "0,1") -> int:
    """The command, with few and short replies."""
    common = ("--methods", methods, "--config", str(place.config), "--seeds", seeds, "--out", str(place.out))
    return main(["compare", *common, "--prompts", "3", "--max_new_tokens", "4", *arguments])


def plan_of(place: Place, *flags: str, methods: str = "dpo,kto", own: dict[str, list[str]] | None = None):
    wanted = Wanted(
        method_slugs(methods.split(",")), [place.config], [0], place.out, list(flags), own or {}, Asking(3, 4, 0.0)
    )
    return make_plan(wanted)


def fit_here(arguments: list[str], log: Path, lock: int, steps: Any) -> int:
    """Training in this process, which is faster than a new one."""
    return main(arguments)


def no_fit(*arguments: Any) -> int:
    raise AssertionError("nothing is left to train")


def found(place: Place) -> dict[str, Any]:
    return json.loads((place.out / "comparison.json").read_text())


def numbers(comparison: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock and on other processes."""
    cost = ("seconds", "tokens_per_second", "peak_memory")
    return {
        row["method"]: {key: cell for key, cell in row["cells"].items() if key not in cost}
        for row in [*comparison["methods"], {"method": "", "cells": comparison["initial"]["cells"]}]
    }


# -------------------------------------------------------------------- a whole comparison


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_dir) -> Place:
    """Two methods with two seeds, compared without an interruption."""
    place = make_place(tmp_path_factory.mktemp("compare"), tiny_model_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_runs, "fit", fit_here)
        assert compare(place) == 0
    return place


def test_every_run_has_the_same_budget_and_its_methods_own_arguments(finished):
    runs = {path.parent: yaml.safe_load(path.read_text()) for path in finished.out.glob("*/seed=*/fit.yaml")}
    assert {f"{folder.parent.name}/{folder.name}" for folder in runs} == {
        f"{method}/seed={seed}" for method in ("dpo", "kto") for seed in (0, 1)
    }
    for folder, settings in runs.items():
        seed, arguments = int(folder.name.partition("=")[2]), settings["model"]["init_args"]
        assert (settings["seed_everything"], settings["data"]["seed"]) == (seed, seed)
        assert (settings["trainer"]["max_steps"], settings["data"]["batch_size"]) == (2, 2)
        # The rate is the user's; of the user's method's own arguments nothing is taken.
        assert (arguments["beta"], arguments["learning_rate"]) == (0.1, 1e-2)
        assert settings["data"]["convert"] == (None if folder.parent.name == "dpo" else "pairs_to_unpaired")
        assert (folder / "config.yaml").is_file()


def test_the_table_holds_what_was_measured(finished):
    comparison = found(finished)
    assert (comparison["pairs"], comparison["prompts"], comparison["steps"]) == (4, 3, 2)
    cells = {row["method"]: row["cells"] for row in comparison["methods"]}
    for method in cells:
        results = [json.loads((finished.out / method / f"seed={seed}" / "result.json").read_text()) for seed in (0, 1)]
        before = json.loads((finished.out / "initial.json").read_text())["held_out"]["pairs"]
        gains = [
            sum(result["held_out"]["pairs"]["chosen_logps"]) / 4 - sum(before["chosen_logps"]) / 4 for result in results
        ]
        assert cells[method]["chosen_gain"]["values"] == pytest.approx(gains)
        assert all(gain != 0 for gain in gains), "training changes the policy"
        assert [result["steps"] for result in results] == [2, 2]
        assert all(result["tokens"] > 0 and result["seconds"] > 0 for result in results)
    # The order of the data differs, so the seeds do.
    assert len(set(cells["dpo"]["chosen_gain"]["values"])) == 2
    for name in ("comparison.md", "comparison.html"):
        assert "pairs_to_unpaired" in (finished.out / name).read_text(encoding="utf-8")


def test_what_is_finished_is_neither_trained_nor_measured_again(finished, monkeypatch, capsys):
    before = found(finished)
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    monkeypatch.setattr(compare_runs, "measure_policy", no_fit)
    assert compare(finished) == 0
    assert numbers(found(finished)) == numbers(before)
    out = capsys.readouterr().out
    assert out.count("finished before") == 4
    assert "accuracy, %" in out


def test_fewer_runs_and_other_replies_are_a_table_without_training(finished, monkeypatch):
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    kept = {path: path.read_bytes() for path in finished.out.rglob("*.json")}
    assert compare(finished, "--max_new_tokens", "2", methods="kto", seeds="1") == 0
    comparison = found(finished)
    assert [(row["method"], row["seeds"]) for row in comparison["methods"]] == [("kto", [1])]
    assert comparison["asking"]["max_new_tokens"] == 2
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model.learning_rate", "0.5"), "model.init_args.learning_rate: 0.01 then, 0.5 now"),
        (("--trainer.max_steps", "3"), "trainer.max_steps: 2 then, 3 now"),
        (("--set", "kto.beta=0.3"), "model.init_args.beta: 0.1 then, 0.3 now"),
        (("--data.train", "{other}"), "content of data.train"),
        (("--model.policy", "{model}"), "content of model.policy"),
    ],
)
def test_runs_of_other_settings_are_not_mixed_in(finished, arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    other = write_rows(tmp_path / "other.jsonl", pairs(WORDS[:5]))
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(yaml.safe_load(finished.config.read_text())["model"]["init_args"]["policy"]).iterdir():
        content = file.read_bytes()
        (model / file.name).write_bytes(content[:-1] + b"\0" if file.suffix == ".safetensors" else content)
    filled = [argument.format(other=other, model=model) for argument in arguments]
    kept = ("--data.validation", str(finished.folder / "held_out.jsonl"))
    assert compare(finished, *filled, *kept) == 2
    message = capsys.readouterr().err
    assert "holds a run of other settings" in message
    assert said in message


def test_a_folder_with_something_else_is_left_alone(place, monkeypatch, capsys):
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    thesis = place.out / "kto" / "seed=1" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    assert compare(place) == 2
    assert "in use for something else" in capsys.readouterr().err


# -------------------------------------------------------------------- interruptions and failures


def test_a_comparison_that_stops_in_training_ends_in_the_same_table(finished, place, monkeypatch):
    calls: list[str] = []

    def interrupted(arguments, *rest):
        calls.append(arguments[2])
        # After the second step of the second run, before that is saved.
        crash = ["--trainer.callbacks+=tests.runs.Crash", "--trainer.callbacks.step=2"]
        return main([*arguments, *(crash if len(calls) == 2 else [])])

    monkeypatch.setattr(compare_runs, "fit", interrupted)
    with pytest.raises(InterruptedError):
        compare(place, methods="dpo")
    assert not (place.out / "comparison.json").exists()
    assert compare(place, methods="dpo") == 0
    mine, whole = numbers(found(place)), numbers(found(finished))
    assert mine == {name: whole[name] for name in ("dpo", "")}
    assert len(calls) == 2 + 1, "one training began twice"


def test_a_comparison_that_stops_in_measuring_does_not_train_again(finished, place, monkeypatch):
    def killed(*arguments):
        raise InterruptedError

    monkeypatch.setattr(compare_runs, "fit", fit_here)
    with monkeypatch.context() as patch:
        patch.setattr(compare_runs, "measure_policy", killed)
        with pytest.raises(InterruptedError):
            compare(place, methods="dpo", seeds="1")
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    assert compare(place, methods="dpo", seeds="1") == 0
    mine, whole = (
        json.loads((folder / "dpo" / "seed=1" / "result.json").read_text()) for folder in (place.out, finished.out)
    )
    assert mine["held_out"] == whole["held_out"]


def test_a_run_that_fails_is_left_out_and_tried_again(place, monkeypatch, capsys):
    def fails(arguments, log, *rest):
        if "kto" in arguments[2]:
            log.write_text("noise\nlit-align: the loss is not finite\n  got: nan\n")
            return 2
        return main(arguments)

    monkeypatch.setattr(compare_runs, "fit", fails)
    assert compare(place, seeds="0") == 2
    printed = capsys.readouterr()
    assert "1 of 2 runs failed" in printed.err
    assert "kto, seed 0: failed: exit status 2: the loss is not finite; got: nan" in printed.out
    assert "Not in the table: kto, seed 0." in printed.out
    assert [bool(row["cells"]) for row in found(place)["methods"]] == [True, False]
    monkeypatch.setattr(compare_runs, "fit", fit_here)
    assert compare(place, seeds="0") == 0
    assert [bool(row["cells"]) for row in found(place)["methods"]] == [True, True]


def test_training_is_a_process_of_its_own_whose_output_is_kept(tmp_path):
    with alone(tmp_path) as lock:
        log = tmp_path / "fit.log"
        assert compare_runs.fit(["--version"], log, lock, lambda: 0) == 0
        assert compare_runs.fit(["fti"], log, lock, lambda: 0) == 2
        assert "did you mean 'fit'?" in log.read_text()
        assert compare_runs._last_words(log, 2).startswith("exit status 2: there is no such verb")
        assert compare_runs._last_words(log, -9).startswith("killed by signal 9")
        warn = "/a/b.py:91: UserWarning: look out: twice\n  rank_zero_warn(\n"
        log.write_text(f"{warn}/c.py:3: DeprecationWarning: old\n{warn}")
        assert compare_runs.warnings_in(log) == ["look out: twice"]


def test_a_comparison_waits_for_what_a_killed_one_has_left_behind(tmp_path):
    with alone(tmp_path) as lock:
        # Inherits the lock, as training does, and outlives it here.
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"], pass_fds=[lock])
    started = time.monotonic()
    with alone(tmp_path):
        assert orphan.poll() is not None or time.monotonic() - started > 0.5
    orphan.wait()


def test_steps_are_read_from_the_end_of_the_metrics(tmp_path):
    assert compare_runs._steps_logged(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' * 900 + '{"step": 17}\n')
    assert compare_runs._steps_logged(tmp_path) == 17
    (tmp_path / "metrics.jsonl").write_text('{"step": 17}\n{"st')
    assert compare_runs._steps_logged(tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("after", ["given.json", "checkpoints", "footprint.json"])
def test_the_real_command_killed_and_called_again(finished, place, after):
    command = [
        *(sys.executable, "-m", "lit_align", "compare", "--methods", "dpo,kto", "--config", str(place.config)),
        *("--seeds", "0,1", "--out", str(place.out), "--prompts", "3", "--max_new_tokens", "4"),
    ]
    # A group of its own, so that the training process dies with it.
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (place.out / "kto" / "seed=0" / after).exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (place.out / "comparison.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(found(place)) == numbers(found(finished))


# -------------------------------------------------------------------- the plan


def test_the_budget_is_that_of_an_epoch_of_pairs(place):
    plan = plan_of(place, "--trainer.max_steps=-1", "--trainer.max_epochs=2", methods="kto,dpo,sft")
    assert plan.steps == 2 * 3
    assert [(m.slug, m.kind, m.convert, m.examples) for m in plan.methods] == [
        ("kto", DataKind.UNPAIRED, "pairs_to_unpaired", 12),
        ("dpo", DataKind.PAIRS, None, 6),
        ("sft", DataKind.DEMONSTRATIONS, "pairs_to_chosen", 6),
    ]
    accumulated = ("--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2")
    assert plan_of(place, *accumulated, methods="dpo").steps == 2
    assert plan_of(place, "--trainer.max_epochs=9", methods="dpo").steps == 2, "max_steps ends it before"
    assert plan_of(place, "--trainer.max_steps=-1", "--trainer.limit_train_batches=2", methods="dpo").steps == 2


def test_held_out_prompts_are_held_out_from_every_method(place):
    rows = [row for word in WORDS for row in (pairs([word])[0], pairs([word])[0] | {"chosen": f"{word}, {word}"})]
    train = write_rows(place.folder / "all.jsonl", rows)
    flags = ("--data.train", train, "--data.val_split=4")
    plan = plan_of(place, *flags, methods="dpo,kto,sft")
    files = [place.out / "data" / f"{name}.jsonl" for name in ("train", "held_out")]
    learnt, held_out = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert (len(learnt), len(held_out)) == (16, 4)
    assert not {row["prompt"] for row in learnt} & {row["prompt"] for row in held_out}
    assert sorted(map(json.dumps, learnt + held_out)) == sorted(map(json.dumps, rows))
    assert [(method.slug, method.examples) for method in plan.methods] == [("dpo", 16), ("kto", 32), ("sft", 16)]
    assert len(plan.held_out.examples("validation", DataKind.PAIRS)) == 4
    for method in plan.methods:
        data = method.of_run(3, place.out)["data"]
        assert (data["train"], data["validation"], data["val_split"]) == (str(files[0]), str(files[1]), 0)


def test_ranked_data_become_what_each_method_needs(place):
    rows = [{"prompt": f"say {w} ", "responses": [w, "no", w + w], "scores": [2, 1, 0]} for w in WORDS]
    train = write_rows(place.folder / "ranked.jsonl", rows)
    flags = ("--data.train", train, "--data.validation", str(place.folder / "held_out.jsonl"))
    plan = plan_of(place, *flags, methods="dpo,sft")
    assert [(method.convert, method.examples) for method in plan.methods] == [
        ("best_worst", 10),
        ("ranked_to_best", 10),
    ]
    # Pairs are held out as they are: a conversion of the training data does not fit them, so no run validates.
    assert plan.held_out.recipe.convert is None
    assert [method.settings["data"]["validation"] for method in plan.methods] == [None, None]
    plan = plan_of(place, *flags, "--data.convert=all_pairs", methods="dpo,sft")
    assert [method.convert for method in plan.methods] == ["all_pairs", "ranked_to_best"]


def test_arguments_of_one_method(place):
    plan = plan_of(place, own=read_own(["kto.beta=0.4"], ["dpo", "kto"]))
    assert [method.settings["model"]["init_args"]["beta"] for method in plan.methods] == [0.1, 0.4]


def test_a_reference_is_for_methods_that_have_one(place):
    config = yaml.safe_load(place.config.read_text())
    config["model"]["init_args"]["reference"] = "frozen_copy"
    place.config.write_text(yaml.safe_dump(config))
    plan = plan_of(place, methods="dpo,simpo")
    assert [m.settings["model"]["init_args"]["reference"] for m in plan.methods] == ["frozen_copy", "auto"]


def test_of_a_methods_own_callbacks_those_are_taken_that_it_cannot_do_without(place):
    def callbacks(method):
        return [c["class_path"].rpartition(".")[2] for c in method.settings["trainer"]["callbacks"]]

    soft, hard, filtered = plan_of(place, methods="tr_dpo,tr_dpo_hard,ropo").methods
    assert callbacks(soft) == callbacks(hard) == ["RunCheckpoint", "ReferenceSync", "Footprint"]
    assert (callbacks(filtered), filtered.left_out) == (["RunCheckpoint", "Footprint"], ["NoiseFilter"])
    assert [m.settings["trainer"]["callbacks"][1]["init_args"]["alpha"] for m in (soft, hard)] == [0.6, 1.0]
    own = ("--trainer.callbacks+=ReferenceSync", "--trainer.callbacks.alpha=0.3")
    (mine,) = plan_of(place, *own, methods="tr_dpo").methods
    assert callbacks(mine) == ["RunCheckpoint", "ReferenceSync", "Footprint"]
    assert mine.settings["trainer"]["callbacks"][1]["init_args"]["alpha"] == 0.3


def test_methods_are_known_by_slug_and_class():
    assert method_slugs(["dpo", "SimPO", "KTO", "tr_dpo_hard"]) == ["dpo", "simpo", "kto", "tr_dpo_hard"]
    with pytest.raises(ConfigError, match="did you mean 'simpo'"):
        method_slugs(["dpo", "sipmo"])
    with pytest.raises(ConfigError, match="twice"):
        method_slugs(["dpo", "DPO"])


@pytest.mark.parametrize("text", ["", "a", "0;1", "0,,1", "-1", "0,1,0", "1.5", str(2**32)])
def test_seeds_are_different_whole_numbers(text):
    with pytest.raises(ConfigError, match="--seeds 0,1,2"):
        read_seeds(text)
    assert read_seeds(" 3, 1") == [3, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--methods must be given"),
        (("--methods", "dpo"), "--config must be given"),
        (("--methods", "dpo,ipoo", "--config", "{mine}"), "did you mean 'ipo'?"),
        (("--methods", "dpo", "--config", "none.yaml"), "cannot be read"),
        (("--methods", "dpo", "--config", "{mine}", "--seeds", "0-2"), "seeds are whole numbers"),
        (("--methods", "dpo", "--config", "{mine}", "--prompts", "some"), "--prompts"),
        (("--methods", "dpo", "--config", "{mine}", "--max_new_tokens", "0"), "--max_new_tokens is out of range"),
        (("--methods", "dpo", "--config", "{mine}", "--seed", "3"), "did you mean seeds?"),
        (("--methods", "dpo", "--config", "{mine}", "--model", "IPO"), "--methods names the methods"),
        (("--methods", "dpo", "--config", "{mine}", "--ckpt_path", "last"), "goes on by itself"),
        (("--methods", "dpo", "--config", "{mine}", "--set", "dpo"), "--set takes METHOD.NAME=VALUE"),
        (("--methods", "dpo", "--config", "{mine}", "--set", "dop.beta=1"), "did you mean dpo.beta?"),
        (("--methods", "dpo", "--config", "{mine}", "--set", "dpo.policy=x"), "compared on one policy"),
        (("--methods", "dpo", "--config", "{mine}", "--set", "dpo.bta=1"), "dpo: Option 'bta' is not accepted"),
        (("--methods", "kto,sft", "--config", "{mine}", "--model.beta", "1"), "sft: Option 'beta' is not accepted"),
        (("--methods", "bradley_terry", "--config", "{mine}"), "reward model, which has no policy"),
        (("--methods", "dpo", "--config", "{mine}", "--data.validation", "null"), "no held-out data"),
        (("--methods", "dpo", "--config", "{mine}", "--data.validation", "{labels}"), "held-out data must be pairs"),
        (("--methods", "dpo", "--config", "{mine}", "--data.train", "{labels}", "--data.validation", "{pairs}"),
         "dpo cannot learn from these data"),
        (("--methods", "dpo", "--config", "{mine}", "--data.convert", "best_wrost"), "did you mean 'best_worst'?"),
        (("--methods", "dpo", "--config", "{mine}", "--trainer.max_time", "00:01:00:00"), "trainer.max_time"),
        (("--methods", "dpo", "--config", "{mine}", "--trainer.enable_checkpointing", "false"), "enable_checkpointing"),
        (("--methods", "dpo", "--config", "{mine}", "--data.streaming", "true", "--trainer.max_steps=-1",
          "--trainer.max_epochs=1"), "nothing says how many steps"),
    ],
)  # fmt: skip
def test_mistakes_are_explained_before_anything_runs(place, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(compare_runs, "fit", no_fit)
    rows = [{"prompt": "a ", "completion": word, "label": word < "m"} for word in WORDS]
    files = {
        "mine": place.config,
        "pairs": place.folder / "held_out.jsonl",
        "labels": write_rows(place.folder / "labels.jsonl", rows),
    }
    filled = [argument.format(**files) for argument in arguments]
    assert main(["compare", *filled, "--out", str(place.out)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not [path for path in place.out.rglob("*") if path.is_dir()], "no run has begun"


def test_the_help_needs_nothing_heavy():
    code = (
        "import sys; from lit_align.__main__ import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'lightning', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--methods" in done.stdout
