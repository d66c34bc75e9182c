"""Judges out of configurations: a class by its short name, its arguments, and judges inside judges."""

from __future__ import annotations

import copy
import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lit_align.core.errors import AlignError, ConfigError
from lit_align.judges import MODULES
from lit_align.judges.base import Judge

KEY = "judge"
"""What the parser calls a judge."""

_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_OPTION = re.compile(r"given class_path '([^']+)':\s+Option '([^']+)' is not accepted")
_MISSING = re.compile(r"given class_path '([^']+)':\s+the following arguments are required: (.+)")
_WRONG = re.compile(r"Parser key \"(\w+)\":\s+Expected an? (?:<class ')?(.+?)(?:'>)?\. Got value: (.+)")
_ABSTRACT = re.compile(r"but (\w+) is abstract")
_COMPLAINT = re.compile(r"^\s*- (?!Expected a <class 'NoneType'>)(.+(?:\n\s{4,}.+)*)", re.MULTILINE)


def judge_from_config(config: Mapping[str, Any] | str | Path) -> Judge:
    """Build a judge.

    Args:
        config: `{class_path: NumericMatch, init_args: {tolerance: 0.01}}`, or the path of a YAML file that holds it,
            by itself or under `judge`. A class of your own is given by its import path.

    Raises:
        ConfigError: the file cannot be read, there is no such class, or it takes no such arguments.
    """
    values = _read(Path(config)) if isinstance(config, str | Path) else dict(config)
    # A copy, since the parser writes into judges that stand inside judges.
    values = copy.deepcopy(values.get(KEY, values))
    parser = judge_parser()
    with plain_errors():
        return build(parser, parser.parse_object({KEY: values}))


def judge_parser(**settings: Any) -> ArgumentParser:
    """A parser with the option `--judge`, which knows the judges by their short names.

    Args:
        **settings: of the parser.
    """
    # The parser knows a class by its short name once the class is imported.
    for module in (*(f"lit_align.judges.{name}" for name in {*MODULES.values()}), "lit_align.rollouts.hf_engine"):
        importlib.import_module(module)
    # Classes of the user's own; last, so that no file here hides a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **settings)
    about = "class of the judge, or a YAML file that describes it"
    parser.add_subclass_arguments(Judge, KEY, required=True, help=about)
    return parser


def build(parser: ArgumentParser, config: Namespace) -> Judge:
    """The judge of a parsed configuration."""
    judge: Judge = parser.instantiate_classes(config)[KEY]
    return judge


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say what a parser has against a judge in plain words."""
    try:
        yield
    except AlignError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise _own_error(error) or explained(str(error)) from error


def _own_error(error: BaseException | None) -> AlignError | None:
    """What a judge itself has said of its arguments, which the parser wraps."""
    while error is not None:
        if isinstance(error, AlignError):
            return error
        error = error.__cause__ or error.__context__
    return None


def explained(message: str) -> ConfigError:
    """The useful part of a parser's message about a judge."""
    if found := _NO_CLASS.search(message):
        known = [name for name in MODULES if name[0].isupper() and MODULES[name] != "base"]
        close = difflib.get_close_matches(found[1], known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        own = "a class of your own is given by its import path, package.module.Class"
        return ConfigError(f"there is no judge '{found[1]}'", got=found[1], fix=f"{hint}{', '.join(known)}; {own}")
    if found := _NO_OPTION.search(message):
        name = found[1].rpartition(".")[2]
        return ConfigError(f"{name} has no setting '{found[2]}'", got=found[2], fix=_settings_hint(name, found[2]))
    if found := _MISSING.search(message):
        return ConfigError(f"{found[1].rpartition('.')[2]} needs {found[2]}", fix="set it under init_args")
    if found := _WRONG.search(message):
        return ConfigError(f"{found[1]} must be of the type {found[2]}", got=found[3])
    if found := _ABSTRACT.search(message):
        return ConfigError("a judge must be a class that can be built", got=found[1], fix="name one of its subclasses")
    complaints = [" ".join(text.split()) for text in _COMPLAINT.findall(message)]
    return ConfigError("the judge cannot be built", got="; ".join(complaints) or message)


def _settings_hint(name: str, wrong: str) -> str:
    help_text = f"`lit-align judge --judge.help {name}` lists its settings"
    if name not in MODULES:
        return help_text
    cls = getattr(importlib.import_module(f"lit_align.judges.{MODULES[name]}"), name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "judge")
    known = [action.dest.partition(".")[2] for action in parser._actions if "." in action.dest]
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]}? {help_text}" if close else help_text


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError("there is no such file", got=str(path), fix="give the path of a judge's YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("a judge's file is not YAML", got=f"{path}: {error}", fix="mend it there") from error
    if not isinstance(values, dict):
        raise ConfigError(
            "a judge's file holds no mapping", got=str(path), fix="write class_path: NAME and init_args: {...}"
        )
    return values
