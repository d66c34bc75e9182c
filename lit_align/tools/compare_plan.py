"""What `lit-align compare` will run: for every method its settings, its data and the budget that all have in common."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from lightning.pytorch import Trainer

from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import AlignError, ConfigError
from lit_align.data.batching import Budget
from lit_align.data.convert import CONVERSIONS, find_conversion
from lit_align.data.module import PreferenceDataModule
from lit_align.data.pipeline import fingerprint
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.evaluation.compare_data import conversion_for, hold_out_once, policy_fingerprint
from lit_align.tools.compare_settings import SHARED, TOLD, MethodSettings, Wanted, build_settings

_QUIET = "lightning.pytorch.utilities.rank_zero"


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
    left_out: list[str]
    """Callbacks of its own configuration that are not used."""

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
        built = {slug: build_settings(slug, wanted) for slug in wanted.methods}
        first = next(iter(built.values()))
        data = cast(PreferenceDataModule, first.datamodule)
        data.sets.method = _reader(first)
        if data.recipe.convert not in (None, *CONVERSIONS):
            find_conversion(str(data.recipe.convert), DataKind.PAIRS)
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


def _reader(cli: MethodSettings) -> SimpleNamespace:
    """What is read for no method in particular, but for all: pairs as the policy sees them."""
    model = cli.model
    return SimpleNamespace(policy_name=model.policy_name, policy_spec=model.policy_spec, data_kind=DataKind.PAIRS)


def _data_module(cli: MethodSettings, changes: dict[str, Any], method: Any) -> PreferenceDataModule:
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


def _prepare(slug: str, cli: MethodSettings, train: str, held_out: str) -> Method:
    """Make the training data of a method, to see that it can learn from them.

    Raises:
        ConfigError: it cannot; the method is named.
    """
    kind = cli.model.data_kind
    changes: dict[str, Any] = {"train": train, "validation": held_out}
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
    return Method(slug, kind, convert, settings, examples, report, list(cli.left_out))


# -------------------------------------------------------------------- budget


def _steps(cli: MethodSettings, data: PreferenceDataModule, train: str) -> int:
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
    shown = {name: value for name, value in arguments.items() if name not in SHARED or name in TOLD}
    return {
        "method": method.slug,
        "class": method.settings["model"]["class_path"].rpartition(".")[2],
        "data": method.kind.value,
        "convert": method.convert,
        "arguments": {
            name: value
            for name, value in shown.items()
            # An optimiser brings a rate of its own.
            if value is not None and not (name == "learning_rate" and shown["optimizer"])
        },
        "examples": method.examples,
        "data_report": method.data,
        "left_out": method.left_out,
    }
