"""What `lit-align compare` will run: for every method its settings, its data and the budget that all have in common."""

from __future__ import annotations

import difflib
import io
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import yaml
from lightning.pytorch import Trainer

import lit_align.callbacks
import lit_align.methods
from lit_align.cli import LitAlignCLI, read_yaml
from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import AlignError, ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.data.batching import Budget
from lit_align.data.module import PreferenceDataModule
from lit_align.data.pipeline import fingerprint
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.evaluation.compare_data import conversion_for, hold_out_once, policy_fingerprint
from lit_align.evaluation.held_out import Asking
from lit_align.parse_errors import arguments_of
from lit_align.tools.configs import find

_SHARED = arguments_of(f"{AlignmentModule.__module__}.{AlignmentModule.__name__}")
"""Arguments that every method has."""
_SCHEDULE = ("learning_rate", "optimizer")
"""Those of them that are told of every method."""
_QUIET = "lightning.pytorch.utilities.rank_zero"


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


class Method(NamedTuple):
    """One method, ready to be trained."""

    slug: str
    kind: DataKind
    """What it learns from."""
    convert: str | None
    """How the data become that."""
    settings: dict[str, Any]
    """A configuration for `lit-align fit`; without a seed and a run folder."""
    examples: int | None
    """To learn from; None for a stream."""
    data: dict[str, Any]
    """What became of the rows to learn from; empty for a stream."""

    def of_run(self, seed: int, folder: Path) -> dict[str, Any]:
        """The configuration of one run."""
        return self.settings | {
            "seed_everything": seed,
            "data": self.settings["data"] | {"seed": seed},
            "trainer": self.settings["trainer"] | {"default_root_dir": str(folder)},
        }


class Plan(NamedTuple):
    """All that is to be run."""

    methods: list[Method]
    steps: int
    """Optimiser steps of every run."""
    held_out: PreferenceDataModule
    """Its validation data are the pairs to measure on."""
    inputs: dict[str, str]
    """What changes with the content of policy, training data and held-out data."""
    initial: str
    """What changes with the numbers of the initial policy."""
    trainer: Trainer
    """Says what devices and precision the settings ask for; trains nothing."""
    batch_size: int
    """Rows at a time, when policies are measured."""


def make_plan(wanted: Wanted) -> Plan:
    """Settle everything, and refuse what cannot work, before the first run.

    Raises:
        AlignError: a method, a setting or the data do not fit; a method is named.
    """
    with _quietly():
        built = {slug: _build(slug, wanted) for slug in wanted.methods}
        first = next(iter(built.values()))
        data = cast(PreferenceDataModule, first.datamodule)
        data.sets.method = _reader(first)
        train, held_out, pairs = _sources(data, wanted.out)
        methods = [_prepare(slug, cli, train, held_out) for slug, cli in built.items()]
        steps = _steps(first, data, train)
        for method in methods:
            method.settings["trainer"] |= {"max_steps": steps, "max_epochs": -1}
        common = _data_module(first, {"train": None, "validation": held_out, "convert": pairs}, _reader(first))
        inputs = {
            "model.policy": policy_fingerprint(first.model.policy_name),
            "data.train": fingerprint(train),
            "data.validation": fingerprint(held_out),
        }
        examples = common.sets.pipeline(DataKind.PAIRS).key(held_out, training=False)
        initial = f"{inputs['model.policy']}/{examples}/{first.model.policy_spec.dtype}/{first.trainer.precision}"
    return Plan(methods, steps, common, inputs, initial, first.trainer, data.batch_size)


# -------------------------------------------------------------------- settings


class _Settings(LitAlignCLI):
    """Parses what `fit` parses, and builds the objects; they hold no weights."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(args=arguments, run=False)

    def _set_seed(self) -> None:
        """Nothing: each run has a seed of its own."""

    def as_dict(self) -> dict[str, Any]:
        """The settings as a configuration holds them."""
        return cast(dict[str, Any], yaml.safe_load(self.parser.dump(self.config, skip_none=False)))


def _build(slug: str, wanted: Wanted) -> _Settings:
    """A method with the user's policy, data and trainer, and its own arguments.

    Raises:
        ConfigError: it cannot have these settings, or cannot be compared.
    """
    own = read_yaml(find(slug))
    cls = getattr(lit_align.methods, own["model"]["class_path"].rpartition(".")[2])
    if cls.head == "reward":
        fix = "leave it out; its own accuracy is in the metrics of its run"
        raise ConfigError(f"'{slug}' trains a reward model, which has no policy to compare", got=slug, fix=fix)
    left_out = set() if cls.needs_reference else {"reference"}
    mine = {name: value for name, value in own["model"].get("init_args", {}).items() if name not in _SHARED}
    rate = {name: own["model"]["init_args"][name] for name in ("learning_rate",) if name in own["model"]["init_args"]}
    contents = [{"model": {"class_path": own["model"]["class_path"], "init_args": mine | rate}}]
    contents += [_common(path, _SHARED - left_out) for path in wanted.configs]
    if callbacks := _needed_callbacks(cls, own, contents, wanted.flags):
        contents.append({"trainer": {"callbacks+": callbacks}})
    flags = [*wanted.flags, *wanted.own.get(slug, []), "--trainer.callbacks+=Footprint", "--seed_everything=false"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.yaml" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            cli = _Settings([*(f"--config={file}" for file in files), *flags])
        except AlignError as error:
            fix = error.fix or f"arguments of one method are set by --set {slug}.NAME=VALUE"
            raise ConfigError(f"{slug}: {error.what}", got=error.got, fix=fix) from error
    _check_trainer(slug, cli)
    return cli


def _common(path: Path, shared: set[str]) -> dict[str, Any]:
    """What a configuration says of any method: without its class and the arguments that others have not."""
    content = read_yaml(path)
    content.pop("seed_everything", None)
    for section, value in content.items():
        if isinstance(value, str) and value.endswith((".yaml", ".yml")):
            content[section] = read_yaml(path.parent / value)
    model = content.pop("model", None)
    given = model.get("init_args", {}) if isinstance(model, dict) else {}
    kept = {name: value for name, value in given.items() if name in shared}
    return content | ({"model": {"init_args": kept}} if kept else {})


def _needed_callbacks(
    cls: type[AlignmentModule], own: dict[str, Any], contents: Sequence[dict[str, Any]], flags: Sequence[str]
) -> list[dict[str, Any]]:
    """Callbacks of the method's own configuration that it cannot do without, where the user has given none such."""

    def provided(callback: Any) -> set[Any]:
        name = callback["class_path"] if isinstance(callback, dict) else str(callback)
        return set(getattr(getattr(lit_align.callbacks, name.rpartition(".")[2], None), "provides", ()))

    given = [part for content in contents for name in ("callbacks", "callbacks+")
             for part in (content.get("trainer") or {}).get(name) or []]  # fmt: skip
    given += [flag.partition("=")[2] for flag in flags if flag.startswith("--trainer.callbacks+=")]
    missing = set(cls.requires).difference(*map(provided, given))
    return [callback for callback in own.get("trainer", {}).get("callbacks", []) if provided(callback) & missing]


def _check_trainer(slug: str, cli: _Settings) -> None:
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


@contextmanager
def _quietly() -> Iterator[None]:
    """Say once what parsing the settings of every method would say again, and nothing of devices."""
    logger, said = logging.getLogger(_QUIET), io.StringIO()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(said):
            yield
    finally:
        logger.setLevel(level)
        for line in dict.fromkeys(said.getvalue().splitlines()):
            print(line)


# -------------------------------------------------------------------- data


def _reader(cli: _Settings) -> SimpleNamespace:
    """What is read for no method in particular, but for all: pairs as the policy sees them."""
    model = cli.model
    return SimpleNamespace(policy_name=model.policy_name, policy_spec=model.policy_spec, data_kind=DataKind.PAIRS)


def _data_module(cli: _Settings, changes: dict[str, Any], method: Any) -> PreferenceDataModule:
    """The data of the settings with others among them, for a method."""
    settings = cli.as_dict()["data"] | {"val_split": 0} | changes
    if settings["convert"] != cli.config["data"]["convert"]:
        settings["convert_args"] = None
    data = PreferenceDataModule(**settings)
    data.sets.method = method
    return data


def _sources(data: PreferenceDataModule, out: Path) -> tuple[str, str, str | None]:
    """What to learn from, what is held out, and how the latter becomes pairs."""
    train = str(data.sets.source("train"))
    if not data.sets.has("validation"):
        raise ConfigError(
            "there are no held-out data to compare on",
            got="neither data.validation nor data.val_split",
            fix="--data.validation FILE, or --data.val_split 0.05 for a share of the training data",
        )
    if data.sets.is_split and data.streaming:
        fix = "give held-out data as data.validation"
        raise ConfigError("a stream cannot be split", got=f"data.val_split: {data.val_split}", fix=fix)
    try:
        pairs = conversion_for(data, "validation", DataKind.PAIRS)
    except ConfigError as error:
        raise ConfigError(
            "held-out data must be pairs, or become pairs: every method is measured on them",
            got=error.got,
            fix="give pairs as --data.validation; the training data may be of another kind",
        ) from error
    if not data.sets.is_split:
        return train, str(data.sets.source("validation")), pairs
    files = hold_out_once(data, out / "data")
    return str(files[0]), str(files[1]), pairs


def _prepare(slug: str, cli: _Settings, train: str, held_out: str) -> Method:
    """Make the training data of a method, to see that it can learn from them.

    Raises:
        ConfigError: it cannot; the method is named.
    """
    kind, changes = cli.model.data_kind, {"train": train, "validation": held_out}
    data = _data_module(cli, changes, cli.model)
    try:
        convert = conversion_for(data, "train", kind)
        try:
            validated = conversion_for(data, "validation", kind) == convert
        except ConfigError:
            validated = False
        changes |= {"convert": convert, "validation": held_out if validated else None, "test": None, "predict": None}
        data = _data_module(cli, changes, cli.model)
        examples = None if data.streaming else len(data.examples("train"))
    except AlignError as error:
        raise ConfigError(f"{slug} cannot learn from these data: {error.what}", got=error.got, fix=error.fix) from error
    settings = cli.as_dict()
    settings["data"] |= changes | {"val_split": 0}
    if convert != cli.config["data"]["convert"]:
        settings["data"]["convert_args"] = None
    settings["trainer"] |= {"enable_progress_bar": False}
    report = data.reports["train"].to_dict() if "train" in data.reports else {}
    return Method(slug, kind, convert, settings, examples, report)


# -------------------------------------------------------------------- budget


def _steps(cli: _Settings, data: PreferenceDataModule, train: str) -> int:
    """Optimiser steps of every run: `max_steps`, or those that `max_epochs` takes on pairs.

    Without pairs, those that it takes on what the first method learns from.
    """
    trainer, epochs = cli.trainer, cli.trainer.max_epochs
    if data.streaming or epochs in (None, -1):
        if trainer.max_steps == -1:
            fix = "--trainer.max_steps 1000"
            raise ConfigError("nothing says how many steps to train", got="no trainer.max_steps", fix=fix)
        return int(trainer.max_steps)
    kind, method = DataKind.PAIRS, _reader(cli)
    try:
        convert = conversion_for(_data_module(cli, {"train": train}, method), "train", kind)
    except ConfigError:
        kind, method = cli.model.data_kind, cli.model
        convert = conversion_for(_data_module(cli, {"train": train}, method), "train", kind)
    examples = _data_module(cli, {"train": train, "convert": convert}, method).examples("train", kind)
    sampler = ResumableBatchSampler(
        examples.sizes,
        Budget(data.batch_size, data.max_tokens_per_batch, Layout.PADDED),
        world_size=(trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1),
        shuffle=data.shuffle,
        bucket=data.bucket,
        remainder="drop" if data.drop_last else "wrap",
    )
    limit = trainer.limit_train_batches
    batches = min(len(sampler), limit) if isinstance(limit, int) else int(len(sampler) * limit)
    steps = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


# -------------------------------------------------------------------- names


def method_slugs(names: Sequence[str]) -> list[str]:
    """Names of configurations, for names of configurations or classes, in any case.

    Raises:
        ConfigError: there is no such method, or one is named twice.
    """
    known = {slug: slug for slug in lit_align.methods.MODULES.values()}
    known |= {name.lower(): slug for name, slug in lit_align.methods.MODULES.items()}
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


# -------------------------------------------------------------------- for the report


def describe(plan: Plan) -> dict[str, Any]:
    """What all runs have in common; JSON values."""
    settings = plan.methods[0].settings
    data, trainer = settings["data"], plan.trainer
    world = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
    per_step = data["batch_size"] * trainer.accumulate_grad_batches * world
    held_out = plan.held_out
    return {
        "policy": settings["model"]["init_args"]["policy"],
        "train": data["train"],
        "held_out": str(held_out.sets.source("validation")),
        "held_out_convert": held_out.recipe.convert,
        "steps": plan.steps,
        "examples_per_step": None if data["max_tokens_per_batch"] else per_step,
    }


def describe_method(method: Method) -> dict[str, Any]:
    """What is a method's own; JSON values."""
    arguments = method.settings["model"]["init_args"]
    shown = {name: value for name, value in arguments.items() if name not in _SHARED or name in _SCHEDULE}
    return {
        "method": method.slug,
        "class": method.settings["model"]["class_path"].rpartition(".")[2],
        "data": method.kind.value,
        "convert": method.convert,
        "arguments": {name: value for name, value in shown.items() if value is not None},
        "examples": method.examples,
        "data_report": method.data,
    }
