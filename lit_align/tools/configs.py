"""`lit-align configs`: the configurations that come with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml

from lit_align import configs as package
from lit_align.core.errors import ConfigError
from lit_align.tools.command import Function, run_command

FOLDER = Path(package.__file__).parent


def available() -> dict[str, Path]:
    """Every configuration by its slug: `dpo` for a method, `trainer/fsdp2` for an overlay."""
    paths = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (len(path.relative_to(FOLDER).parts), path))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths}


def find(slug: str) -> Path:
    """The file of a configuration.

    Raises:
        ConfigError: there is none of that name.
    """
    known = available()
    if slug not in known:
        close = difflib.get_close_matches(slug, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigError("there is no such configuration", got=slug, fix=f"{hint}`lit-align configs list` names them")
    return known[slug]


def summary(path: Path) -> str:
    """The first comment of a configuration, its one-line description."""
    return path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip()


def list_all() -> None:
    """Print every configuration with its description."""
    known = available()
    width = max(map(len, known)) + 2
    for slug, path in known.items():
        print(f"{slug:<{width}}{summary(path)}")


def show(slug: str) -> None:
    """Print a configuration.

    Args:
        slug: its name, as `lit-align configs list` prints it.
    """
    print(find(slug).read_text(encoding="utf-8"), end="")


def copy(slug: str, destination: Path) -> None:
    """Copy a configuration, to be edited; beside it the one that it says is to be trained `first`, if none is there.

    Args:
        slug: its name, as `lit-align configs list` prints it.
        destination: a new file, or a folder.
    """
    source = find(slug)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise ConfigError("the file exists already", got=str(target), fix="choose another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    print(target)
    first = yaml.safe_load(source.read_bytes()).get("first")
    if first is not None and not (target.parent / first).exists():
        copy(f"{Path(slug).parent / Path(first).stem}", target.parent)


def main(argv: list[str]) -> None:
    """Run `lit-align configs`."""
    verbs: dict[str, Function] = {"list": list_all, "show": show, "copy": copy}
    run_command("configs", verbs, argv or ["list"])
