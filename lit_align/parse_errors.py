"""Turns the parser's long error messages into the one line that helps, with a close match."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_align.core.errors import ConfigError, shorten
from lit_align.core.module import AlignmentModule

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$", re.MULTILINE)
_GIVEN = re.compile(r"^ *Given value: (.*)$", re.MULTILINE)
_NOISE = re.compile(r"^ *- Expected a path but .*\n", re.MULTILINE)
_PLAIN_NAMES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
_NAMED_BY_CLASS = (AlignmentModule, Callback, Logger, Optimizer, LRScheduler)


class _Complaint(NamedTuple):
    """A parser's message, taken apart."""

    message: str
    key: str
    """What it is about, such as `model.beta`; may be empty."""
    given: str
    """The value that it refuses; may be empty."""
    options: Sequence[str]
    """What could have been given on the command line, such as `trainer.max_epochs`."""


def explain(message: str, options: Iterable[str] = ()) -> ConfigError:
    """The useful part of a parser's message.

    Args:
        message: what jsonargparse says.
        options: the options that the verb has, such as `trainer.max_epochs`.
    """
    message = _NOISE.sub("", message)
    key, given = ".".join(_KEY.findall(message)), (_GIVEN.findall(message) or [""])[-1]
    complaint = _Complaint(message, key, given, list(options))
    for pattern, answer in _ANSWERS:
        if match := re.search(pattern, message, re.MULTILINE):
            return answer(complaint, match)
    return ConfigError(message.split("\n  Given value", 1)[0])


def arguments_of(class_path: str) -> set[str]:
    """Names that a class's constructor takes, those that it hands to its bases included.

    Returns:
        The names; none if the class cannot be imported.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return set()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names: set[str] = set()
    for init in (vars(base)["__init__"] for base in inspect.getmro(cls) if "__init__" in vars(base)):
        parameters = inspect.signature(init).parameters.values()
        names |= {p.name for p in parameters if p.kind not in variadic}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, [other for other in known if other != name], n=1)
    return f"did you mean {close[0]}?" if close else otherwise


# -------------------------------------------------------------------- one function per kind of mistake


def _unknown_argument(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    name, class_path = match[1], match[2] or (_CLASS.findall(complaint.message) or [""])[-1]
    known = sorted(arguments_of(class_path))
    owner = class_path.rpartition(".")[2] or complaint.key
    fix = _did_you_mean(name, known, f"{owner} has: {', '.join(known)}" if known else "--help lists the options")
    return ConfigError(f"Option '{name}' is not accepted; {fix}", got=f"{complaint.key}.{name} for {owner}")


def _unknown_option(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    name = match[1].lstrip("-").split("=", 1)[0]
    if not match[1].startswith("-") and "unrecognized" in match[0]:
        return ConfigError(f"'{name}' is one argument too many", fix="options begin with --; --help lists them")
    section, dot, rest = name.partition(".")
    sections = {option.split(".", 1)[0] for option in complaint.options}
    if dot and section not in sections:
        close = difflib.get_close_matches(section, sections, n=1)
        fix = f"did you mean {close[0]}.{rest}?" if close else f"sections are: {', '.join(sorted(sections))}"
    else:
        fix = _did_you_mean(name, complaint.options, "--help lists the options")
    return ConfigError(f"Option '{name}' is not accepted; {fix}")


def _unknown_choice(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    known = re.findall(r"[\w-]+", match[2])
    hint = _did_you_mean(match[1], known, f"one of: {', '.join(known)}")
    return ConfigError(f"there is no '{match[1]}'; {hint}")


def _no_value(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    return ConfigError(f"{match[1]} needs a value", fix=f"{match[1]} VALUE")


def _missing(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    names = [f"{complaint.key}.{name}" if complaint.key else name for name in match[1].split(", ")]
    if names[0].rpartition(".")[2] == "model":
        fix = "add --config configs/dpo.yaml, or --model DPO --model.policy FOLDER"
        return ConfigError("no method is given", fix=fix)
    return ConfigError(
        f"{', '.join(names)} must be given", fix=f"set it in the configuration, or as --{names[0]} VALUE"
    )


def _abstract(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    key = complaint.key
    if complaint.given.startswith("NestedArg"):
        fix = f"name the class first: --{key} DPO --{key}.beta 0.1"
        return ConfigError(f"an argument of {key} comes before its class", fix=fix)
    fix = "`lit-align methods` lists the methods"
    return ConfigError(f"{key} must be a class that can be built", got=complaint.given, fix=fix)


def _not_imported(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    fix = "modules are looked for in this folder and on PYTHONPATH"
    return ConfigError(f"the class '{match[1]}' cannot be imported", got=f"{complaint.key}: {match[2]}", fix=fix)


def _several_classes(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    got = f"{complaint.key}: {match[1]}"
    return ConfigError(f"there are several classes '{match[1]}'", got=got, fix=f"give one of {match[2]}")


def _wrong_class(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    return ConfigError(f"{complaint.key} must be of the kind {match[1]}", got=complaint.given)


def _unknown_class(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    classes = set().union(*map(_subclasses, _NAMED_BY_CLASS))
    own = "a class of your own is given by its import path, package.module.Class"
    fix = _did_you_mean(match[1], {cls.__name__ for cls in classes if not inspect.isabstract(cls)}, own)
    return ConfigError(f"there is no class '{match[1]}'; {fix}", got=f"{complaint.key}: {match[1]}")


def _subclasses(cls: type) -> set[type]:
    children: list[type] = cls.__subclasses__()
    return {cls}.union(*map(_subclasses, children))


def _wrong_value(complaint: _Complaint, match: re.Match[str]) -> ConfigError:
    found = _EXPECTED.findall(complaint.message)
    kinds = dict.fromkeys(_plain(kind) for kind, _ in found if "NoneType" not in kind)
    exact = next((value for _, value in found if value), complaint.given)
    return ConfigError(f"{complaint.key} must be {' or '.join(kinds)}", got=shorten(exact))


def _plain(kind: str) -> str:
    """A type as people write it: `<class 'int'>` is a whole number, `typing.Literal['a', 'b']` is 'a' or 'b'."""
    if match := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", kind):
        return _PLAIN_NAMES.get(match[1], match[1])
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return " or ".join(match[1].split(", "))
    return kind.replace("typing.", "")


_ANSWERS: list[tuple[str, Callable[[_Complaint, re.Match[str]], ConfigError]]] = [
    (r"Option '([^']+)' is not accepted(?:\. Got value: Namespace\(class_path='([^']+)')?", _unknown_argument),
    (r"(?:does not accept option '|unrecognized arguments: )([^' ]+)", _unknown_option),
    (r"invalid choice: '([^']*)' \(choose from (.+)\)", _unknown_choice),
    (r"argument (\S+): expected one argument", _no_value),
    (r"the following arguments are required: (.+)", _missing),
    (r"is abstract", _abstract),
    (r"given class_path '([^']+)':\n +((?:No module named|module '|cannot import).*)", _not_imported),
    (r"Multiple subclasses with name (\w+)\. Give the full class path to avoid ambiguity: (.+)\.$", _several_classes),
    (r"Import path does not correspond to a subclass of (\w+)", _wrong_class),
    (r"Expected a dot import path string: (.+)", _unknown_class),
    (r'Parser key "[^"]+":(?:.*\n)* .*Expected an? ', _wrong_value),
]
"""What the parser says, and who answers; the first that fits."""
