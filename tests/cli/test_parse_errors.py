"""What a user reads who mistypes something."""

from __future__ import annotations

import pytest

from lit_align.__main__ import main
from lit_align.core.errors import ConfigError
from lit_align.parse_errors import arguments_of, explain
from lit_align.tools.command import with_run

DPO = ("--model", "DPO", "--model.policy", "x")
YAML = "model:\n  class_path: DPO\n  init_args:\n    policy: x\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model.betta", "0.2"), "Option 'betta' is not accepted; did you mean beta?\n  got: model.betta for DPO"),
        (("--model.beta", "abc"), "model.beta must be a number\n  got: 'abc'"),
        (("--model.layout", "shard"), "model.layout must be 'auto' or 'padded' or 'packed' or 'shared'"),
        (("--modle.beta", "3"), "Option 'modle.beta' is not accepted; did you mean model.beta?"),
        (("--data.batchsize", "2"), "Option 'data.batchsize' is not accepted; did you mean data.batch_size?"),
        (("--data.batch_size", "two"), "data.batch_size must be a whole number\n  got: 'two'"),
        (("--trainer.max_epochs", "1.5"), "trainer.max_epochs must be a whole number\n  got: '1.5'"),
        (("--trainer.max_step", "3"), "Option 'trainer.max_step' is not accepted; did you mean trainer.max_steps?"),
        (("--ckptpath", "last"), "Option 'ckptpath' is not accepted; did you mean ckpt_path?"),
        (("--trainer.callbacks+=LoRAA",), "there is no class 'LoRAA'; did you mean LoRA?"),
        (("--model.optimizer", "AdamWW"), "there is no class 'AdamWW'; did you mean AdamW?"),
        (
            ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lrr", "1"),
            "Option 'lrr' is not accepted; did you mean lr?",
        ),
    ],
)
def test_flags(cli, arguments, message):
    with pytest.raises(ConfigError) as caught:
        cli.parse("fit", *DPO, *arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (YAML + "    betta: 0.3\n", "Option 'betta' is not accepted; did you mean beta?"),
        (
            YAML + "trainer:\n  max_epoch: 3\n",
            "Option 'trainer.max_epoch' is not accepted; did you mean trainer.max_epochs?",
        ),
        (
            YAML + "trainers:\n  max_epochs: 3\n",
            "Option 'trainers.max_epochs' is not accepted; did you mean trainer.max",
        ),
        (YAML.replace("DPO", "DPOO"), "there is no class 'DPOO'; did you mean DPO?"),
        (YAML.replace("    policy: x\n", "    beta: 1\n"), "model.policy must be given"),
        (
            YAML + "trainer:\n  callbacks:\n  - class_path: LoRA\n    init_args:\n      alhpa: 8\n",
            "Option 'alhpa' is not accepted; did you mean alpha?\n  got: trainer.callbacks.alhpa for LoRA",
        ),
        (
            YAML
            + "trainer:\n  callbacks:\n  - class_path: RunCheckpoint\n    init_args:\n      every_n_train_steps: 8\n",
            "Option 'every_n_train_steps' is not accepted; did you mean every_n_steps?",
        ),
    ],
)
def test_files(cli, tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        cli.parse("fit", "--config", str(path))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no method is given"),
        (("--model", "DPPO"), "there is no class 'DPPO'; did you mean DPO?"),
        (("--model", "no_such_module.Method"), "the class 'no_such_module.Method' cannot be imported"),
        (("--model", "json.JSONDecoder"), "model must be of the kind AlignmentModule"),
        (("--model", "AlignmentModule"), "model must be a class that can be built"),
    ],
)
def test_methods(cli, arguments, message):
    with pytest.raises(ConfigError) as caught:
        cli.parse("fit", *arguments)
    assert str(caught.value).startswith(message)


def test_names_with_two_owners():
    message = (
        'Parser key "trainer.logger":\n  Errors:\n    - Multiple subclasses with name Mine. '
        "Give the full class path to avoid ambiguity: a.Mine, b.Mine.\n    - Expected a <class 'NoneType'>\n"
    )
    expected = "there are several classes 'Mine'\n  got: trainer.logger: Mine\n  fix: give one of a.Mine, b.Mine"
    assert str(explain(message)) == expected


def test_what_is_not_understood_is_passed_on():
    assert str(explain("something else is wrong")) == "something else is wrong"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs", "lst"], "there is no 'lst'; did you mean list?"),
        (["configs", "show"], "slug must be given\n  fix: see `lit-align configs --help`"),
        (["configs", "show", "--slgu", "dpo"], "Option 'slgu' is not accepted; did you mean slug?"),
        (["methods", "--makdown"], "Option 'makdown' is not accepted; did you mean markdown?"),
        (["methods", "dpo"], "'dpo' is one argument too many"),
        (["export", "--rnu", "x"], "Option 'rnu' is not accepted; did you mean run?"),
        (["export", "a", "b"], "'b' is one argument too many"),
        (["export", "a", "--dtype", "int3"], "dtype must be 'float32' or 'bfloat16' or 'float16' or 'float64'\n"),
        (["export", "a", "--out"], "--out needs a value"),
        (["report"], "run must be given"),
        (["report", "a", "--titel", "b"], "Option 'titel' is not accepted; did you mean title?"),
        (["quickstart", "--sed", "3"], "Option 'sed' is not accepted; did you mean seed?"),
        (["preview", "--rwos", "3"], "Option 'rwos' is not accepted; did you mean rows?"),
        (["fit", "--trainer.max_steps"], "--trainer.max_steps needs a value"),
    ],
)
def test_commands(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lit-align: {message}")
    assert said.count("\n") <= 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["a"], ["--run", "a"]),
        (["--run", "a"], ["--run", "a"]),
        (["--out", "b", "a"], ["--out", "b", "--run", "a"]),
        (["a", "--out=b", "-h"], ["--run", "a", "--out=b", "-h"]),
        (["a", "b"], ["--run", "a", "b"]),
        ([], []),
    ],
)
def test_a_run_needs_no_flag(given, named):
    assert with_run(given) == named


def test_arguments_include_those_of_bases():
    assert {"beta", "policy", "learning_rate"} <= arguments_of("lit_align.DPO")
    assert "kwargs" not in arguments_of("lit_align.DPO")
    # Its constructor hands nothing on to Lightning's.
    assert "every_n_train_steps" not in arguments_of("lit_align.callbacks.RunCheckpoint")
    assert arguments_of("no.such.Class") == set()
