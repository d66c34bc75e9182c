"""`lit-align methods`: a table of the methods, made from the code."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import lit_align.methods
from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.tools.command import explained

_TITLE = re.compile(r'^(?P<name>[^:]+): (?P<authors>.+? (?P<year>\d{4})), "(?P<title>[^"]+)"')
_WHEN = re.compile(r"When: (?P<sentence>.+?)\.(?= |$)")
_LINK = re.compile(r"https?://[^\s,;)]+")

_REWARD_MODEL = "reward model"
_MARKS = ("<!-- methods:start -->", "<!-- methods:end -->")
"""Lines between which a Markdown file holds the table."""


class Method(NamedTuple):
    """One row of the table."""

    slug: str
    class_name: str
    title: str
    """First sentence of the class's docstring."""
    data: str
    """Kind of data that it learns from, and what the rows must have besides."""
    models: str
    """What is held in memory to train."""
    when: str
    """One sentence on when to use it."""
    paper: str
    """Authors and year."""
    link: str

    @property
    def config(self) -> str:
        """Path of its configuration in the repository."""
        return f"configs/{self.slug}.yaml"


def all_methods() -> list[Method]:
    """Every method of the package, by slug."""
    found = []
    for name, slug in lit_align.methods.MODULES.items():
        cls = getattr(lit_align.methods, name)
        found.append(describe(slug, cls, sys.modules[cls.__module__].__doc__ or ""))
    return found


def describe(slug: str, cls: type[AlignmentModule], docstring: str) -> Method:
    """One row, from a class and the docstring of its module.

    Raises:
        ConfigError: the docstring does not begin with `Name: Authors year, "Title"` or cites no address.
    """
    # Wrapped lines read as one.
    text = " ".join(docstring.split())
    title, link, when = _TITLE.match(text), _LINK.search(text), _WHEN.search(" ".join((cls.__doc__ or "").split()))
    if when is None:
        raise ConfigError(
            f"the docstring of {cls.__name__} does not say when to use it",
            got=(cls.__doc__ or "").strip()[:80],
            fix="add a sentence: When: ...",
        )
    if title is None or link is None:
        raise ConfigError(
            f"the docstring of {cls.__module__} does not name its paper",
            got=text[:80],
            fix='begin it with: NAME: AUTHORS YEAR, "TITLE". and the address of the paper',
        )
    return Method(
        slug=slug,
        class_name=cls.__name__,
        title=(cls.__doc__ or "").split("\n", 1)[0].rstrip("."),
        data=_data(cls),
        models=_models(cls),
        when=when["sentence"],
        paper=title["authors"],
        link=link[0].rstrip("."),
    )


def _data(cls: type[AlignmentModule]) -> str:
    """What a method learns from, in words."""
    fields = " and ".join(sorted(cls.needs_fields)).replace("_", " ")
    return f"{cls.data_kind.value}, each with {fields}" if fields else cls.data_kind.value


def _models(cls: type[AlignmentModule]) -> str:
    """What a method holds in memory, in words."""
    if cls.head != "lm":
        return _REWARD_MODEL
    if Capability.ADAPTERS in cls.requires:
        return "policy with adapters"
    if not cls.needs_reference:
        return "policy"
    return "policy, refreshed reference" if Capability.REFERENCE_REFRESH in cls.requires else "policy, reference"


def as_markdown(methods: list[Method]) -> str:
    """The tables as they stand in the README, of policies and of reward models."""
    policies = [method for method in methods if method.models != _REWARD_MODEL]
    rewards = [method for method in methods if method.models == _REWARD_MODEL]
    parts = (("Policies", policies), ("Reward models", rewards))
    return "\n\n".join(f"### {title}\n\n{_table(part)}" for title, part in parts if part)


def _table(methods: list[Method]) -> str:
    lines = ["| Method | Class | Data | Models | Use it when | Paper | Config |", "|---|---|---|---|---|---|---|"]
    for method in methods:
        lines.append(
            f"| {method.title} | `{method.class_name}` | {method.data} | {method.models} | {method.when} "
            f"| [{method.paper}]({method.link}) | [`{method.slug}`]({method.config}) |"
        )
    return "\n".join(lines)


def as_text(methods: list[Method]) -> str:
    """The table for a terminal."""
    rows = [("CLASS", "CONFIG", "DATA", "MODELS", "USE IT WHEN", "PAPER")]
    rows += [(m.class_name, m.slug, m.data, m.models, m.when, f"{m.paper}  {m.link}") for m in methods]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def with_table(text: str, table: str) -> str:
    """The text of a Markdown file with the table between its marks.

    Raises:
        ConfigError: each mark does not stand there once, in their order.
    """
    marks = "|".join(_MARKS)
    if tuple(re.findall(marks, text)) != _MARKS:
        raise ConfigError("the file has no one place for the table of methods", fix=f"mark it: {' ... '.join(_MARKS)}")
    before, _, after = re.split(marks, text)
    return f"{before}{_MARKS[0]}\n{table}\n{_MARKS[1]}{after}"


def write(file: Path, table: str) -> None:
    """Put the table into a Markdown file.

    Raises:
        ConfigError: the file cannot be read or written, or has no place for the table.
    """
    try:
        text = with_table(file.read_text(encoding="utf-8"), table)
        file.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the table of methods cannot be written",
            got=f"{file}: {getattr(error, 'strerror', None) or error}",
            fix="name a Markdown file, as in --write README.md",
        ) from error


def main(argv: list[str]) -> None:
    """Run `lit-align methods`.

    Raises:
        ConfigError: there is no such option, or the file to write to will not do.
    """
    about = "Print the table of methods."
    parser = argparse.ArgumentParser("lit-align methods", description=about, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--markdown", action="store_true", help="as it stands in the README")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put it into a Markdown file, as README.md")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        raise explained("methods", f"unrecognized arguments: {' '.join(unknown)}", {"markdown", "write"})
    methods = all_methods()
    if arguments.write:
        write(arguments.write, as_markdown(methods))
        print(f"{arguments.write}: {len(methods)} methods")
    else:
        print((as_markdown if arguments.markdown else as_text)(methods))
