"""`lit-align evaluate`: reward models on pairs, policies before judges, many models in a ranking."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_align.core.errors import ConfigError
from lit_align.tools.command import explained

if TYPE_CHECKING:
    from lit_align.evaluation.document import Document

WORDS = {
    "rewards": "reward models by their score files: accuracy, calibration, length, sections, figures",
    "policies": "models before judges: generate, score, win rates, figures",
    "ranking": "many models by their scores: mean, Bradley-Terry, Elo, and who is told apart",
}
"""Modules `lit_align.tools.evaluate_<word>`, each with a function `main(argv)`."""
_SHOWN = 3
"""Tables that are printed; all are in the files."""
_NAME = re.compile(r"[\w.+-]+")


def main(argv: list[str]) -> None:
    """Run `lit-align evaluate WORD`.

    Raises:
        ConfigError: there is no such word, or its arguments will not do.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: lit-align evaluate WORD [options]\n")
        print("\n".join(f"  {word:<10}{what}" for word, what in WORDS.items()))
        print("\n`lit-align evaluate WORD --help` lists the options of a word.")
        return
    word = argv[0]
    if word not in WORDS:
        close = difflib.get_close_matches(word, WORDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError("there is nothing of this name to evaluate", got=word, fix=f"{hint}{', '.join(WORDS)}")
    importlib.import_module(f"lit_align.tools.evaluate_{word}").main(argv[1:])


def new_parser(word: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that all words have."""
    parser = argparse.ArgumentParser(
        f"lit-align evaluate {word}", description=description, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"), metavar="FOLDER",
                        help="default: runs/evaluation")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random (default: 0)")
    parser.add_argument("--title", default="", help="heading of the page")
    return parser


def add_embedding(parser: argparse.ArgumentParser) -> None:
    """Options of words that embed responses."""
    parser.add_argument("--embed", metavar="MODEL", help="lay out responses in the plane by this model's states")
    parser.add_argument("--embed_most", type=int, default=500, metavar="N", help="at most N responses of each group")
    parser.add_argument("--tsne", action="store_true", help="with --embed: t-SNE as well; needs scikit-learn")


def parse(parser: argparse.ArgumentParser, argv: list[str], needed: Sequence[str]) -> argparse.Namespace:
    """Parse, with errors in our words.

    Args:
        parser: from `new_parser`; none of its arguments is required, since some versions of argparse would then exit.
        argv: what to parse.
        needed: names of arguments that must be given.

    Raises:
        ConfigError: an argument is unknown, missing, or of a wrong kind.
    """
    options = {action.dest for action in parser._actions}
    try:
        arguments, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise explained("evaluate", str(error), options) from error
    if unknown:
        raise explained("evaluate", f"unrecognized arguments: {' '.join(unknown)}", options)
    for name in needed:
        if not getattr(arguments, name):
            raise ConfigError(f"{name} must be given", fix=f"see `{parser.prog} --help`")
    return arguments


def named(texts: Sequence[str], what: str) -> dict[str, str]:
    """Values by name, from `NAME=VALUE`; a path alone is named by its last part.

    Raises:
        ConfigError: a name cannot name a file, or stands twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            name, value = Path(text).name.split(".")[0], text
        if not _NAME.fullmatch(name) or not value:
            raise ConfigError(f"{what} are given as NAME=PATH", got=text, fix="names have letters, digits, . + - and _")
        if name in found:
            raise ConfigError("a name stands twice", got=text, fix=f"give {what} names of their own: NAME=PATH")
        found[name] = value
    return found


def finish(document: Document, out: Path, title: str) -> None:
    """Write the files of an evaluation, and print its first tables."""
    from lit_align.evaluation.document import table_text

    document.title = title or document.title
    files = document.write(out)
    for table in document.tables[:_SHOWN]:
        print(f"\n{table_text(table)}")
    rest = len(document.tables) - _SHOWN
    if rest > 0:
        print(f"\n{rest} more tables and {len(document.figures)} figures in the files; `lit-align report {out}` draws")
    print("\n" + "\n".join(map(str, files)))
