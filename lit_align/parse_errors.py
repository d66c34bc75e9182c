"""Turns the parser's long error messages into the one line that helps, with a close match."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_align.core.errors import ConfigError, shorten
from lit_align.core.module import AlignmentModule

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN_ARGUMENT = re.compile(r"Option '([^']+)' is not accepted(?:\. Got value: Namespace\(class_path='([^']+)')?")
_UNKNOWN_OPTION = re.compile(r"(?:does not accept option '|unrecognized arguments: )([^' ]+)")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (.+)")
_NOT_IMPORTED = re.compile(r"given class_path '([^']+)':\n +((?:No module named|module '|cannot import).*)")
_NOT_A = re.compile(r"Import path does not correspond to a subclass of (\w+)")
_NOISE = re.compile(r"^ *- Expected a path but .*\n", re.MULTILINE)
_MISSING = re.compile(r"the following arguments are required: (.+)")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$", re.MULTILINE)
_GIVEN = re.compile(r"^ *Given value: (.*)$", re.MULTILINE)
_PLAIN_NAMES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
_NAMED_BY_CLASS = (AlignmentModule, Callback, Logger, Optimizer, LRScheduler)


def explain(message: str, options: Iterable[str] = ()) -> ConfigError:
    """The useful part of a parser's message.

    Args:
        message: what jsonargparse says.
        options: the options that the verb has, such as `trainer.max_epochs`.
    """
    message = _NOISE.sub("", message)
    key = ".".join(_KEY.findall(message))
    given = (_GIVEN.findall(message) or [""])[-1]
    if match := _UNKNOWN_ARGUMENT.search(message):
        return _unknown_argument(key, match[1], match[2] or (_CLASS.findall(message) or [""])[-1])
    if match := _UNKNOWN_OPTION.search(message):
        return _unknown_option(match[1].lstrip("-"), list(options))
    if match := _MISSING.search(message):
        return _missing(key, match[1])
    if "is abstract" in message:
        return _abstract(key, given)
    if match := _NOT_IMPORTED.search(message):
        fix = "modules are looked for in this folder and on PYTHONPATH"
        return ConfigError(f"the class '{match[1]}' cannot be imported", got=f"{key}: {match[2]}", fix=fix)
    if match := _NOT_A.search(message):
        return ConfigError(f"{key} must be a {match[1]}", got=given)
    if match := _UNKNOWN_CLASS.search(message):
        return _unknown_class(key, match[1])
    if key and _EXPECTED.search(message):
        return _wrong_value(key, message, given)
    return ConfigError(message.split("\n  Given value", 1)[0])


def _did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def _unknown_argument(key: str, name: str, class_path: str) -> ConfigError:
    known = sorted(arguments_of(class_path))
    owner = class_path.rpartition(".")[2] or key
    fix = _did_you_mean(name, known, f"{owner} has: {', '.join(known)}" if known else "--help lists the options")
    return ConfigError(f"Option '{name}' is not accepted; {fix}", got=f"{key}.{name} for {owner}")


def arguments_of(class_path: str) -> set[str]:
    """Names that a class's constructor takes, those of its bases included; empty if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return set()
    signatures = (inspect.signature(vars(base)["__init__"]) for base in inspect.getmro(cls) if "__init__" in vars(base))
    parameters = (p for signature in signatures for p in signature.parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name for p in parameters if p.kind not in variadic and p.name != "self"}


def _unknown_option(name: str, options: list[str]) -> ConfigError:
    name = name.split("=", 1)[0]
    section, dot, rest = name.partition(".")
    sections = {option.split(".", 1)[0] for option in options}
    if dot and section not in sections:
        fix = _did_you_mean(section, sections, f"sections are: {', '.join(sorted(sections))}")
        fix = fix.replace("?", f".{rest}?") if fix.startswith("did") else fix
    else:
        fix = _did_you_mean(name, options, "--help lists the options")
    return ConfigError(f"Option '{name}' is not accepted; {fix}")


def _missing(key: str, names: str) -> ConfigError:
    names = names.removeprefix("fit.")
    if names.rsplit(".", 1)[-1] == "model":
        return ConfigError(
            "no method is given", fix="add --config configs/dpo.yaml, or --model DPO --model.policy FOLDER"
        )
    full = ", ".join(f"{key}.{name}" if key else name for name in names.split(", "))
    return ConfigError(f"{full} must be given", fix=f"set it in the configuration, or as --{full.split(', ')[0]} VALUE")


def _abstract(key: str, given: str) -> ConfigError:
    if given.startswith("NestedArg"):
        fix = f"name the class first: --{key} DPO --{key}.beta 0.1"
        return ConfigError(f"an argument of {key} comes before its class", fix=fix)
    return ConfigError(
        f"{key} must be a class that can be built", got=given, fix="`lit-align methods` lists the methods"
    )


def _unknown_class(key: str, name: str) -> ConfigError:
    known = {cls.__name__ for base in _NAMED_BY_CLASS for cls in _subclasses(base) if not inspect.isabstract(cls)}
    own = "a class of your own is given by its import path, package.module.Class"
    return ConfigError(f"there is no class '{name}'; {_did_you_mean(name, known, own)}", got=f"{key}: {name}")


def _subclasses(cls: type) -> set[type]:
    children: list[type] = cls.__subclasses__()
    return {cls}.union(*map(_subclasses, children))


def _wrong_value(key: str, message: str, given: str) -> ConfigError:
    found = _EXPECTED.findall(message)
    kinds = list(dict.fromkeys(_plain(kind) for kind, _ in found if "NoneType" not in kind))
    exact = next((value for _, value in found if value), given)
    return ConfigError(f"{key} must be {' or '.join(kinds)}", got=shorten(exact))


def _plain(kind: str) -> str:
    """A type as people write it: `<class 'int'>` is a whole number, `typing.Literal['a', 'b']` is 'a' or 'b'."""
    if match := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", kind):
        return _PLAIN_NAMES.get(match[1], match[1])
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return " or ".join(match[1].split(", "))
    return kind.replace("typing.", "")
