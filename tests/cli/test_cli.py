"""The verbs with a Trainer: configurations parse, and the traps of LightningCLI are closed."""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from lit_align.__main__ import TOOLS, TRAINER_VERBS, main
from lit_align.cli import LitAlignCLI, refuse_two_methods
from lit_align.core.errors import ConfigError
from tests.rows import loop_of

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
METHODS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
WHOLE = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("quickstart/*.yaml"))
OVERLAYS = sorted({path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*.yaml")} - set(WHOLE))
DPO = ("--model", "DPO", "--model.policy", "model")


# -------------------------------------------------------------------- configurations


@pytest.mark.parametrize("slug", METHODS)
def test_configurations_parse(cli, slug):
    config = cli.parse("fit", "--config", str(CONFIGS / f"{slug}.yaml"))
    assert config.model.init_args.policy
    assert config.data.train
    assert config.trainer.default_root_dir == f"runs/{slug}"
    assert config.seed_everything == 42


@pytest.mark.parametrize("path", WHOLE)
def test_configurations_of_the_quickstart_parse(cli, path):
    assert cli.parse("fit", "--config", str(CONFIGS / path)).model.class_path


@pytest.mark.parametrize("path", [*(f"{slug}.yaml" for slug in METHODS), *WHOLE])
def test_flags_of_callbacks_reach_the_loop(path):
    # `--trainer.callbacks.rounds 2` is said of the last one.
    config = yaml.safe_load((CONFIGS / path).read_text())
    if loop_of(config) is not None:
        assert loop_of({"trainer": {"callbacks": config["trainer"]["callbacks"][-1:]}}), "another callback stands last"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_parse_on_a_method_and_leave_it_the_method(cli, overlay):
    assert "class_path" not in (yaml.safe_load((CONFIGS / overlay).read_text()).get("model") or {})
    config = cli.parse("fit", "--config", str(CONFIGS / "kto.yaml"), "--config", str(CONFIGS / overlay))
    assert config.model.class_path.endswith("KTO")
    assert config.model.init_args.beta == 0.1


def test_adapter_overlays_add_to_the_callbacks_that_are_there(cli, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer:\n  callbacks:\n  - class_path: ReferenceSync\n")
    files = (CONFIGS / "dpo.yaml", mine, CONFIGS / "adapters" / "lora.yaml")
    config = cli.parse("fit", *(part for file in files for part in ("--config", str(file))))
    assert [callback.class_path.rpartition(".")[2] for callback in config.trainer.callbacks] == [
        "ReferenceSync",
        "LoRA",
    ]


def test_every_verb_takes_a_configuration(cli):
    for verb in TRAINER_VERBS:
        assert cli.parse(verb, "--config", str(CONFIGS / "dpo.yaml")).model.init_args.beta == 0.1


def _commands_of_the_readme() -> list[str]:
    blocks = re.findall(r"```bash\n(.+?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("lit-align ")]


@pytest.mark.parametrize("command", _commands_of_the_readme())
def test_commands_of_the_readme_parse(cli, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    # What a run has left, for the configuration that it began with.
    command = re.sub(r"runs/(\w+)/config.yaml", r"configs/\1.yaml", command)
    verb, *arguments = shlex.split(command, comments=True)[1:]
    if verb in TRAINER_VERBS:
        assert cli.parse(verb, *arguments).model.class_path
    else:
        assert verb in {*TOOLS, "--help"}


def test_flags_beat_configurations(cli):
    config = cli.parse("fit", "--config", str(CONFIGS / "dpo.yaml"), "--model.beta", "0.7", "--data.batch_size=3")
    assert (config.model.init_args.beta, config.data.batch_size) == (0.7, 3)


def test_own_training_data_leave_out_what_goes_with_the_configurations(cli, capsys):
    sft = ("--config", str(CONFIGS / "sft.yaml"))
    data = cli.parse("fit", *sft, "--data.train", "mine.jsonl").data
    assert (data.train, data.validation, data.test, data.convert) == ("mine.jsonl", None, None, None)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "data.validation and data.convert" in line
    assert "--data.val_split" in line

    data = cli.parse(
        "fit", *sft, "--data.train=mine.jsonl", "--data.val_split", "0.05", "--data.convert=all_pairs"
    ).data
    assert (data.validation, data.val_split, data.convert) == (None, 0.05, "all_pairs")
    assert "--data.val_split" not in capsys.readouterr().out


def test_own_training_data_leave_out_how_the_configurations_are_read(cli, capsys, tmp_path):
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(
        "data: {train: theirs.csv, predict: prompts.csv, columns: {prompt: question}, format: pairs, max_length: 64}\n"
    )
    dpo = ("--config", str(CONFIGS / "dpo.yaml"), "--config", str(theirs))
    data = cli.parse("fit", *dpo).data
    assert (data.columns, data.format, data.predict) == ({"prompt": "question"}, "pairs", "prompts.csv")
    capsys.readouterr()
    data = cli.parse("fit", *dpo, "--data.train", "mine.jsonl").data
    assert (data.columns, data.format, data.predict, data.max_length) == (None, None, None, 64)
    assert "data.predict and data.columns and data.format" in capsys.readouterr().out
    data = cli.parse("fit", *dpo, "--data.train", "mine.jsonl", "--data.columns", "{chosen: best}").data
    assert (data.columns, data.format) == ({"chosen": "best"}, None)
    data = cli.parse("fit", *dpo, "--data.columns", "null").data
    assert (data.columns, data.format) == (None, "pairs")


def test_training_data_that_are_the_same_leave_everything(cli, capsys):
    plain = cli.parse("fit", "--config", str(CONFIGS / "sft.yaml")).data
    same = cli.parse("fit", "--config", str(CONFIGS / "sft.yaml"), "--data.train", plain.train).data
    assert (same.validation, same.convert) == (plain.validation, "pairs_to_chosen")
    assert not capsys.readouterr().out


def test_a_later_file_with_training_data_leaves_out_the_validation_of_the_first(cli, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("data:\n  train: mine.jsonl\n")
    sft, hh = CONFIGS / "sft.yaml", CONFIGS / "data" / "hh.yaml"
    data = cli.parse("fit", "--config", str(sft), "--config", str(mine)).data
    assert (data.train, data.validation, data.convert) == ("mine.jsonl", None, "pairs_to_chosen")
    data = cli.parse("fit", "--config", str(sft), "--config", str(hh)).data
    assert (data.validation, data.convert) == ("Anthropic/hh-rlhf@test", "pairs_to_chosen")


# -------------------------------------------------------------------- traps


def test_a_checkpoint_never_beats_flags(cli, tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"hyper_parameters": {"_class_path": "lit_align.SimPO", "policy": "other", "beta": 0.9}}, path)
    config = cli.parse("fit", *DPO, "--model.beta", "0.2", "--ckpt_path", str(path))
    assert (config.model.class_path.rpartition(".")[2], config.model.init_args.beta) == ("DPO", 0.2)
    # What Lightning would have done, so that this test can fail.
    LightningCLI._parse_ckpt_path(cli)
    assert cli.config.fit.model.class_path.endswith("SimPO")


@pytest.fixture
def configs(tmp_path):
    """YAML files that name a method in every way that there is."""
    model = {"class_path": "DPO", "init_args": {"policy": "x", "beta": 0.3}}
    contents = {
        "dpo": {"model": model},
        "full": {"model": model | {"class_path": "lit_align.methods.dpo.DPO"}},
        "simpo": {"model": {"class_path": "SimPO", "init_args": {"policy": "x"}}},
        "short": {"model": "SimPO"},
        "linked": {"model": "part.yaml"},
        "part": {"class_path": "SimPO", "init_args": {"policy": "x"}},
        "overlay": {"model": {"init_args": {"beta": 0.5}}},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.mark.parametrize("second", ["simpo", "short", "linked"])
def test_two_methods_in_two_files_are_refused(configs, second):
    arguments = ["fit", "--config", str(configs / "dpo.yaml"), f"--config={configs / second}.yaml"]
    with pytest.raises(ConfigError, match="two methods in one command") as caught:
        refuse_two_methods(arguments)
    assert "DPO in" in caught.value.got
    assert "SimPO in" in caught.value.got


@pytest.mark.parametrize("flag", [["--model", "SimPO"], ["--model=SimPO"], ["--model.class_path", "lit_align.SimPO"]])
def test_two_methods_in_a_file_and_a_flag_are_refused(configs, flag):
    with pytest.raises(ConfigError, match="two methods in one command"):
        refuse_two_methods(["fit", "--config", str(configs / "dpo.yaml"), *flag])


def test_one_method_named_twice_is_fine(cli, configs):
    files = [str(configs / f"{name}.yaml") for name in ("dpo", "full", "overlay")]
    config = cli.parse("fit", *(part for file in files for part in ("--config", file)), "--model", "DPO")
    assert config.model.init_args.beta == 0.5


def test_no_optimiser_is_built_before_the_model(cli):
    options = cli._subcommand_parsers["fit"]._option_string_actions
    assert "--model" in options
    assert not [option for option in options if option.startswith(("--optimizer", "--lr_scheduler"))]
    config = cli.parse("fit", *DPO, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1")
    assert config.model.init_args.optimizer.init_args.lr == 0.1


def test_the_class_comes_before_its_arguments(cli):
    with pytest.raises(ConfigError, match="comes before its class"):
        cli.parse("fit", "--model.beta", "0.5", *DPO)


def test_options_that_a_job_has_of_its_own_are_not_options(cli):
    options = cli._subcommand_parsers["fit"]._option_string_actions
    assert "--ckpt_path" in options
    assert not {"--weights_only", "--datamodule", "--train_dataloaders"} & set(options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [", "cannot be read"),
        ("- 1", "holds `model:`"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_configurations_are_named(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        refuse_two_methods(["fit", "--config", str(path)])
    assert str(path) in caught.value.got


# -------------------------------------------------------------------- whole jobs


def run(*arguments: str) -> int:
    """A command with the tiny model and data of the fixture `folder`."""
    common = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    return main([*arguments, *common, "--trainer.enable_model_summary", "false"])


TRAIN = (
    *("--data.train", "pairs.jsonl", "--data.validation", "pairs.jsonl", "--data.predict", "prompts.jsonl"),
    *("--data.batch_size", "2", "--data.max_length", "64", "--trainer.log_every_n_steps", "1"),
)


def test_train_resume_validate_generate_score(folder, capsys):
    assert run("fit", *DPO, *TRAIN, "--trainer.max_epochs", "1") == 0
    runs = folder / "runs" / "dpo"
    files = {path.name for path in runs.iterdir()}
    assert files >= {"config.yaml", "metrics.jsonl", "data_report.json", "checkpoints", "tensorboard"}
    config = yaml.safe_load((runs / "config.yaml").read_text())
    assert sorted(config) == ["data", "model", "seed_everything", "trainer"]
    saved = ("--config", str(runs / "config.yaml"), "--ckpt_path", "last")

    # The same folder again: the saved configuration is written over, the metrics go on.
    assert run("fit", *saved, "--trainer.max_epochs", "2") == 0
    steps = [json.loads(line)["step"] for line in (runs / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]
    assert (runs / "checkpoints" / "step=6.ckpt").is_file()
    assert yaml.safe_load((runs / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert sorted(path.name for path in runs.iterdir() if "version" in path.name) == []

    before = {path: path.read_bytes() for path in (runs / "config.yaml", runs / "metrics.jsonl")}
    assert run("validate", *saved) == 0
    assert "val/rewards/accuracies" in capsys.readouterr().out
    assert run("generate", *saved, "--max_new_tokens", "4") == 0
    assert run("score", *saved, "--data.predict", "pairs.jsonl", "--out", "out/scores.jsonl") == 0
    assert {path: path.read_bytes() for path in before} == before, "verbs that only look change the run"

    written = [json.loads(line) for line in (runs / "generated.jsonl").read_text().splitlines()]
    assert [record["row"] for record in written] == [1, 2, 3, 4, 5, 6]
    assert written[0]["prompt"].endswith("say red ")
    assert all(1 <= record["tokens"] <= 4 for record in written)
    scores = [json.loads(line) for line in (folder / "out" / "scores.jsonl").read_text().splitlines()]
    assert [(record["row"], record["role"]) for record in scores[:3]] == [(1, "chosen"), (1, "rejected"), (2, "chosen")]
    assert all(record["logps"] < 0 and record["file"] == "pairs.jsonl" for record in scores)


def test_looking_at_a_checkpoint_that_is_not_there_is_an_error(folder, capsys):
    """Lightning would warn, and measure the untrained policy."""
    assert run("validate", *DPO, *TRAIN, "--ckpt_path", "last") == 2
    assert "no complete checkpoint" in capsys.readouterr().err


def test_a_first_run_may_say_last(folder, capsys, recwarn):
    """The command of a job that may be killed is the same for its first part and for its next ones."""
    assert run("fit", *DPO, *TRAIN, "--trainer.max_steps", "1", "--ckpt_path", "last") == 0
    assert "no checkpoint yet in runs/dpo: starting at step 0" in capsys.readouterr().out
    assert not any("save_last" in str(warning.message) for warning in recwarn)
    assert run("fit", *DPO, *TRAIN, "--trainer.max_steps", "2", "--ckpt_path", "last") == 0
    assert "no checkpoint yet" not in capsys.readouterr().out


def test_a_run_that_stops_before_its_first_batch_does_not_go_on_from_an_earlier_one(folder, capsys, monkeypatch):
    """Killed while it reads data or builds the model, say."""
    arguments = (*DPO, *TRAIN, "--trainer.max_steps", "2")
    assert run("fit", *arguments) == 0
    older = folder / "runs" / "dpo" / "checkpoints.old" / "step=2.ckpt"
    contents = (folder / "runs" / "dpo" / "checkpoints" / "step=2.ckpt").read_bytes()
    (folder / "other.jsonl").write_text('{"prompt": 7}\n')
    assert run("fit", *arguments, "--data.train", "other.jsonl") == 2
    assert older.read_bytes() == contents

    assert run("validate", *arguments, "--ckpt_path", "last") == 2
    assert f"--ckpt_path {older.relative_to(folder)}" in capsys.readouterr().err
    assert run("fit", *arguments, "--ckpt_path", "last") == 0
    assert f"starting at step 0 (an earlier run's newest is {older.relative_to(folder)})" in capsys.readouterr().out
    assert older.read_bytes() == contents
    assert run("fit", *arguments, "--ckpt_path", str(older), "--trainer.max_steps", "3") == 0
    assert (older.parents[1] / "checkpoints" / "step=3.ckpt").is_file()


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        (("--trainer.callbacks+=ReferenceSync", "--trainer.callbacks.alpha", "1.6"), "alpha: 1.6"),
        (("--trainer.callbacks+=LoRA", "--trainer.callbacks.r", "0"), "r: 0"),
        (("--model.learning_rate=-1",), "learning_rate: -1.0"),
        (("--model.warmup_ratio", "2"), "warmup_ratio: 2.0"),
        (("--trainer.accumulate_grad_batches", "0"), "trainer.accumulate_grad_batches: 0"),
        (("--data.batch_size", "0"), "data.batch_size: 0"),
        (("--data.val_split", "1.0"), "data.val_split: 1.0"),
    ],
)
def test_a_number_out_of_range_is_said_in_three_lines(folder, capsys, arguments, got):
    assert run("fit", *DPO, *TRAIN, *arguments) == 2
    message = capsys.readouterr().err.rpartition("lit-align: ")[2].splitlines()
    assert len(message) == 3
    assert message[1] == f"  got: {got}"


def test_a_learning_rate_of_nothing_is_allowed():
    assert LitAlignCLI([*DPO, "--model.learning_rate", "0"], run=False).model.learning_rate == 0


def test_a_refused_setting_of_the_trainer_is_the_users_error(folder, capsys):
    assert run("fit", *DPO, *TRAIN, "--trainer.strategy", "fsdp9") == 2
    message = capsys.readouterr().err
    assert "the Trainer cannot be built" in message
    assert "fsdp9" in message


def test_a_callback_with_state_given_twice_is_the_users_error(folder, capsys):
    twice = ("--trainer.callbacks+=DriftAlarm", "--trainer.callbacks+=DriftAlarm")
    assert run("fit", *DPO, *TRAIN, *twice) == 2
    assert "more than one stateful callback" in capsys.readouterr().err


def test_classes_of_the_users_own_are_found_in_the_working_directory(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "my_methods.py").write_text(
        "from lit_align import DPO\n\n\nclass MyDPO(DPO):\n    '''Mine.'''\n\n    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    arguments = ("--model", "my_methods.MyDPO", "--model.policy", "model", *TRAIN)
    assert run("fit", *arguments, "--trainer.max_steps", "1") == 0
    assert (folder / "runs" / "mydpo" / "metrics.jsonl").exists()


def test_objects_without_a_verb(folder):
    """What tools such as `preview` build on."""
    cli = LitAlignCLI([*DPO, "--data.train", "pairs.jsonl", "--model.beta", "0.4"], run=False)
    assert cli.model.beta == 0.4
    assert cli.datamodule is not None


def test_advice_and_internal_warnings_are_dropped(cli):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tip = logger.makeRecord(logger.name, logging.INFO, "f", 1, "Tip: For seamless cloud uploads", (), None)
    note = logger.makeRecord(logger.name, logging.INFO, "f", 1, "GPU available: False", (), None)
    assert not logger.filter(tip)
    report = "score.weight | MISSING |\n\n- MISSING: those params were newly initialized"
    for name, text, kept in (
        ("transformers.modeling_utils", report, False),
        ("transformers.modeling_utils", f"{report}\n- MISMATCH: ckpt weights were loaded", True),
        ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community", False),
    ):
        adviser = logging.getLogger(name)
        assert bool(adviser.filter(adviser.makeRecord(name, logging.WARNING, "f", 1, text, (), None))) == kept
    assert logger.filter(note)
