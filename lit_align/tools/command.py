"""How the tools read their arguments: a function becomes a command, and mistakes are said in a line or two."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import auto_cli

from lit_align.core.errors import ConfigError

_REQUIRED = re.compile(r"arguments are required: (?:\w+\.)?(\w+)")

Function = Callable[..., None]


def run_command(name: str, target: Function | Mapping[str, Function], argv: list[str], **settings: Any) -> None:
    """Call a function with arguments from the command line.

    Args:
        name: of the tool.
        target: the function, or several by the word that chooses one.
        argv: arguments behind the tool's name.
        **settings: further arguments of `jsonargparse.auto_cli`.

    Raises:
        ConfigError: the arguments are not those of the function.
    """
    functions = target.values() if isinstance(target, Mapping) else [target]
    options = {option for function in functions for option in inspect.signature(function).parameters}
    try:
        auto_cli(target, args=argv, prog=f"lit-align {name}", exit_on_error=False, allow_abbrev=False, **settings)
    except ArgumentError as error:
        raise explained(name, str(error), options) from error


def explained(name: str, message: str, options: set[str]) -> ConfigError:
    """What a parser says about the arguments of a tool, in our words."""
    # Here, since that module imports libraries that most tools do without.
    from lit_align.parse_errors import explain

    if missing := _REQUIRED.search(message):
        return ConfigError(f"{missing[1]} must be given", fix=f"see `lit-align {name} --help`")
    return explain(message, options)


def with_run(argv: list[str]) -> list[str]:
    """The same arguments where a word by itself, `export runs/dpo`, stands for `--run runs/dpo`."""
    named: list[str] = []
    takes_value = False
    for argument in argv:
        is_option = argument.startswith("-") and not takes_value
        if not is_option and not takes_value and "--run" not in named:
            named.append("--run")
        named.append(argument)
        takes_value = is_option and "=" not in argument and argument not in ("-h", "--help")
    return named
