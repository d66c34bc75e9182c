"""The command before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import ArgumentError
from types import SimpleNamespace

import pytest

import lit_align
from lit_align.__main__ import TOOLS, TRAINER_VERBS, main
from lit_align.core.errors import ConfigError, DataError


def test_help_lists_every_verb_with_one_line(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({**TRAINER_VERBS, **TOOLS}) == 16
    for verb, what in {**TRAINER_VERBS, **TOOLS}.items():
        assert f"  {verb:<12}{what}" in lines


def test_no_arguments_print_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: lit-align VERB")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lit-align {lit_align.__version__}\n"


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys; from lit_align.__main__ import main; main(['--help'])\n"
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'yaml', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - start < 1.0


def test_the_names_of_the_package_are_known_without_importing_anything_heavy():
    code = (
        "import sys, lit_align; assert 'DPO' in dir(lit_align) and 'DPO' in lit_align.__all__\n"
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'yaml', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("verb", "meant"), [("fti", "fit"), ("eport", "report"), ("validat", "validate")])
def test_an_unknown_verb_suggests_a_close_one(verb, meant, capsys):
    assert main([verb]) == 2
    message = capsys.readouterr().err
    assert f"got: {verb}" in message
    assert f"did you mean '{meant}'?" in message
    assert "Traceback" not in message


def test_lightnings_verb_for_predictions_leads_to_ours(capsys):
    assert main(["predict", "--config", "configs/dpo.yaml"]) == 2
    assert "did you mean 'score' or 'generate'?" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "predict" not in capsys.readouterr().out


def test_a_flag_before_the_verb_says_where_the_verb_goes(capsys):
    assert main(["--config", "configs/dpo.yaml"]) == 2
    assert "lit-align fit --config" in capsys.readouterr().err


def _verb_that_raises(monkeypatch, error):
    def run(argv):
        raise error

    monkeypatch.setitem(sys.modules, "lit_align.tools.methods", SimpleNamespace(main=run))


def test_errors_of_the_user_print_their_parts_without_a_traceback(monkeypatch, capsys):
    error = DataError("prompt is empty", file="a.jsonl", row=7, field="prompt", value="", fix="write one")
    _verb_that_raises(monkeypatch, error)
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == (
        "lit-align: prompt is empty\n  got: a.jsonl, row 7, field 'prompt': ''\n  fix: write one\n"
    )


def test_errors_of_the_user_raise_when_debugging(monkeypatch):
    _verb_that_raises(monkeypatch, ConfigError("wrong"))
    monkeypatch.setenv("LIT_ALIGN_DEBUG", "1")
    with pytest.raises(ConfigError, match="wrong"):
        main(["methods"])


def test_other_errors_keep_their_traceback(monkeypatch):
    _verb_that_raises(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["methods"])


def test_errors_of_a_tools_parser_print_in_short(monkeypatch, capsys):
    _verb_that_raises(monkeypatch, ArgumentError(None, "unrecognized arguments: --markdwon"))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err.startswith("lit-align: unrecognized arguments: --markdwon")


def _without_a_reader(*arguments: str, both: bool = False) -> tuple[int, str]:
    """Exit status and standard error of Python when nobody reads the output, or both outputs."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, *arguments],
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    finally:
        os.close(writer)
    return result.returncode, result.stderr or ""


@pytest.mark.parametrize("verb", [["--help"], ["configs", "list"], ["configs", "show", "dpo"]], ids=" ".join)
@pytest.mark.parametrize("python", [["-m"], ["-u", "-m"]], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_gets_no_traceback(verb, python):
    """As in `lit-align configs list | head -1`."""
    assert _without_a_reader(*python, "lit_align", *verb) == (141, "")


def test_help_of_a_tool_without_a_reader_is_quiet():
    """argparse ignores the error, and the interpreter has nothing to add."""
    assert _without_a_reader("-m", "lit_align", "configs", "--help")[1] == ""


def test_a_mistake_without_a_reader_is_quiet():
    assert _without_a_reader("-m", "lit_align", "fti", both=True)[0] == 141


def test_an_error_without_a_reader_keeps_its_traceback():
    code = (
        "import sys, lit_align.__main__ as command\n"
        "def fail(arguments): print('begun'); raise ZeroDivisionError('ours')\n"
        "command._dispatch = fail; command.main(['fit'])"
    )
    assert "ZeroDivisionError: ours" in _without_a_reader("-c", code)[1]


def test_other_broken_pipes_keep_their_traceback(monkeypatch):
    """A worker or another rank that died is a fault of the run."""
    _verb_that_raises(monkeypatch, BrokenPipeError("of a worker"))
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main(["methods"])


def test_arguments_stay_in_sys_argv(monkeypatch, capsys):
    """Lightning starts the other processes of a job with them."""
    monkeypatch.setattr(sys, "argv", ["lit-align", "methods", "--markdown"])
    seen = {}
    module = SimpleNamespace(main=lambda argv: seen.update(argv=argv, sys_argv=list(sys.argv)))
    monkeypatch.setitem(sys.modules, "lit_align.tools.methods", module)
    assert main() == 0
    assert seen == {"argv": ["--markdown"], "sys_argv": ["lit-align", "methods", "--markdown"]}


def test_every_tool_has_a_main():
    from importlib.util import find_spec

    for verb in TOOLS:
        assert find_spec(f"lit_align.tools.{verb}") is not None, verb


def test_the_systems_own_errors_name_the_path(monkeypatch, capsys):
    def run(argv: list[str]) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setitem(sys.modules, "lit_align.tools.methods", SimpleNamespace(main=run))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err.startswith("lit-align: Permission denied\n  got: /some/where\n  fix: ")
