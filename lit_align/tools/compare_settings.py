"""The settings of `lit-align compare`: a user's configuration for every method, each with arguments of its own."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

import lit_align.callbacks
import lit_align.methods
from lit_align.cli import LitAlignCLI, read_yaml
from lit_align.core.errors import AlignError, ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.evaluation.held_out import Asking
from lit_align.parse_errors import arguments_of
from lit_align.tools.configs import available, find

SHARED = arguments_of(f"{AlignmentModule.__module__}.{AlignmentModule.__name__}")
"""Arguments that every method has."""
TOLD = ("learning_rate", "optimizer")
"""Those of them that are told of every method."""


class Wanted(NamedTuple):
    """What the user asks for."""

    methods: list[str]
    """Names of configurations."""
    configs: list[Path]
    seeds: list[int]
    out: Path
    flags: list[str]
    """Options of `lit-align fit`, for every method."""
    own: dict[str, list[str]]
    """Options of single methods."""
    asking: Asking


def method_slugs(names: Sequence[str]) -> list[str]:
    """Names of methods' configurations, for those or for names of classes, in any case.

    Raises:
        ConfigError: there is no such method, or one is named twice.
    """
    known = {name.lower(): slug for name, slug in lit_align.methods.MODULES.items()}
    known |= {slug: slug for slug in available() if "/" not in slug}
    found: list[str] = []
    for name in names:
        if name.lower() not in known:
            close = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean '{known[close[0]]}'? " if close else ""
            raise ConfigError("there is no such method", got=name, fix=f"{hint}`lit-align methods` lists them")
        if known[name.lower()] in found:
            raise ConfigError("a method is named twice", got=", ".join(names), fix="name each once")
        found.append(known[name.lower()])
    return found


class MethodSettings(LitAlignCLI):
    """Parses what `fit` parses, and builds the objects; they hold no weights."""

    left_out: Sequence[str] = ()
    """Callbacks of the method's own configuration that are not used."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(args=arguments, run=False)

    def _set_seed(self) -> None:
        """Nothing: each run has a seed of its own."""

    @cached_property
    def text(self) -> str:
        """The settings as a file of them."""
        return str(self.parser.dump(self.config, skip_none=False))

    def as_dict(self) -> dict[str, Any]:
        """The settings as a configuration holds them, to be changed."""
        return cast(dict[str, Any], yaml.safe_load(self.text))


def build_settings(slug: str, wanted: Wanted) -> MethodSettings:
    """A method with the user's policy, data and trainer, and its own arguments.

    Raises:
        ConfigError: it cannot have these settings, or cannot be compared.
    """
    own = read_yaml(find(slug))
    cls = getattr(lit_align.methods, own["model"]["class_path"].rpartition(".")[2])
    if cls.head != "lm":
        fix = "leave it out; its own accuracy is in the metrics of its run"
        raise ConfigError(f"'{slug}' trains a reward model, which has no policy to compare", got=slug, fix=fix)
    left_out = set() if cls.needs_reference else {"reference"}
    mine = {name: value for name, value in own["model"].get("init_args", {}).items() if name not in SHARED}
    rate = {name: own["model"]["init_args"][name] for name in ("learning_rate",) if name in own["model"]["init_args"]}
    contents = [{"model": {"class_path": own["model"]["class_path"], "init_args": mine | rate}}]
    contents += [_common(path, SHARED - left_out) for path in wanted.configs]
    theirs = own.get("trainer", {}).get("callbacks") or []
    taken = _needed_callbacks(cls, theirs, contents, wanted.flags)
    if taken:
        contents.append({"trainer": {"callbacks+": taken}})
    flags = [*wanted.flags, *wanted.own.get(slug, []), "--trainer.callbacks+=Footprint", "--seed_everything=false"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.yaml" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            cli = MethodSettings([*(f"--config={file}" for file in files), *flags])
        except AlignError as error:
            fix = error.fix or f"arguments of one method are set by --set {slug}.NAME=VALUE"
            raise ConfigError(f"{slug}: {error.what}", got=error.got, fix=fix) from error
    _check_trainer(slug, cli)
    given = {type(callback).__name__ for callback in cli.trainer.callbacks}
    cli.left_out = sorted({_class_name(callback) for callback in theirs} - given)
    return cli


def _common(path: Path, shared: set[str]) -> dict[str, Any]:
    """What a configuration says of any method: without its class and the arguments that others have not."""
    content = read_yaml(path)
    for name in ("seed_everything", "first"):
        content.pop(name, None)
    for section, value in content.items():
        if isinstance(value, str) and value.endswith((".yaml", ".yml")):
            content[section] = read_yaml(path.parent / value)
    model = content.pop("model", None)
    given = model.get("init_args", {}) if isinstance(model, dict) else {}
    kept = {name: value for name, value in given.items() if name in shared}
    return content | ({"model": {"init_args": kept}} if kept else {})


def _needed_callbacks(
    cls: type[AlignmentModule], theirs: Sequence[Any], contents: Sequence[dict[str, Any]], flags: Sequence[str]
) -> list[Any]:
    """Of the callbacks of a method's own configuration those that it cannot do without, and the user has not given."""

    def provided(callback: Any) -> set[Any]:
        return set(getattr(getattr(lit_align.callbacks, _class_name(callback), None), "provides", ()))

    given = [part for content in contents for name in ("callbacks", "callbacks+")
             for part in (content.get("trainer") or {}).get(name) or []]  # fmt: skip
    given += [flag.partition("=")[2] for flag in flags if flag.startswith("--trainer.callbacks+=")]
    missing = set(cls.requires).difference(*map(provided, given))
    return [callback for callback in theirs if provided(callback) & missing]


def _class_name(callback: Any) -> str:
    """Class of a callback in a configuration, without its package."""
    path = callback["class_path"] if isinstance(callback, dict) else str(callback)
    return str(path).rpartition(".")[2]


def _check_trainer(slug: str, cli: MethodSettings) -> None:
    """Refuse what would leave nothing to measure, or count budgets otherwise than in steps."""
    settings = cli.config["trainer"]
    for name, bad, fix in (
        ("max_time", settings["max_time"] is not None, "say how long with trainer.max_steps or trainer.max_epochs"),
        ("enable_checkpointing", settings["enable_checkpointing"] is False, "leave it out: checkpoints are measured"),
        ("fast_dev_run", bool(settings["fast_dev_run"]), "for a short comparison set trainer.max_steps"),
        ("barebones", bool(settings["barebones"]), "leave it out: checkpoints are measured"),
    ):
        if bad:
            raise ConfigError(
                "runs at equal budget cannot have this setting", got=f"trainer.{name}: {settings[name]}", fix=fix
            )
    provided = {c for callback in cli.trainer.callbacks for c in getattr(callback, "provides", ())}
    for capability in sorted(cli.model.requires - provided):
        raise ConfigError(f"{slug} needs a callback that provides '{capability.value}'", fix="add one to the trainer's")
