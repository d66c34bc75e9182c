"""The verbs that need a Trainer, a model and data, on LightningCLI, with its traps closed."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from transformers.utils.logging import disable_progress_bar

import lit_align.callbacks
import lit_align.judges
import lit_align.methods
from lit_align.core.checkpoint_io import newest_checkpoint
from lit_align.core.errors import AlignError, ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.data.module import PreferenceDataModule
from lit_align.parse_errors import explain
from lit_align.tools.first_run import find_first, train_first
from lit_align.trainer import AlignTrainer

# The parser knows a class by its short name once the class is imported.
for _package in (lit_align.methods, lit_align.callbacks, lit_align.judges):
    for _name in _package.__all__:
        getattr(_package, _name)

_WARNINGS = (
    ".*LeafSpec.*",
    ".*module.* in eval mode.*",
    ".*does not have many workers.*",
    ".*not supported by the model summary.*",
    # We say it ourselves, without the advice to use another callback.
    ".*there is no last checkpoint available.*",
)
_ADVICE = ("Tip: For seamless", "`weights_only` was not set", "TPU available", "_dataloader` to estimate")
_ADVISERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector")

_SECTIONS = ("seed_everything", "model", "data", "trainer")
"""What a configuration holds for every verb."""


_OF_THE_SOURCE = ("validation", "test", "predict", "convert", "convert_args", "columns", "format")
"""Settings of `data` that go with one source of training data, and not with another."""


class SaveRunConfig(SaveConfigCallback):
    """Writes config.yaml to the run folder when training starts, without the options of the verb itself.

    So the file serves every verb, and `--ckpt_path` of one job does not become the next one's.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        shared = config.clone()
        for name in list(vars(shared)):
            if name not in _SECTIONS:
                del shared[name]
        super().__init__(parser, shared, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: a checkpoint may refuse these settings, and the folder is that of its run."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; other verbs leave the file of the training run as it is."""
        super().setup(trainer, pl_module, "fit")


class LitAlignCLI(LightningCLI):
    """LightningCLI for alignment methods.

    Args:
        args: arguments without the program's name; None: `sys.argv`.
        run: run the verb; False: parse and build the objects only, from arguments without a verb.
    """

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        # Classes of the user's own; last, so that no file here hides a library.
        sys.path.append(os.getcwd())
        silence_noise()
        super().__init__(
            model_class=AlignmentModule,
            datamodule_class=PreferenceDataModule,
            trainer_class=AlignTrainer,
            save_config_callback=SaveRunConfig,
            # A resumed job finds the file of its first part.
            save_config_kwargs={"overwrite": True},
            seed_everything_default=42,
            subclass_mode_model=True,
            # The optimiser is built after `configure_model`, from the weights as they are sharded.
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the parameters of their methods that are not options.

        Lightning's `predict` is not one: `generate` and `score` say what to do with the data, and keep the result.
        """
        objects = {"model", "datamodule", "weights_only"}
        return {
            "fit": {*objects, "train_dataloaders", "val_dataloaders"},
            "validate": {*objects, "dataloaders"},
            "test": {*objects, "dataloaders"},
            "generate": objects,
            "score": objects,
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors, so that they can be put into plain words."""
        # An abbreviation would hide a typing error.
        ours = {"prog": "lit-align", "exit_on_error": False, "allow_abbrev": False}
        return super().init_parser(**{**ours, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a configuration may hold besides the objects' settings."""
        parser.add_argument(
            "--first",
            type=str | None,
            help="for fit: a configuration whose export is `model.policy`; it is trained before, unless it was",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one line what is wrong.

        Raises:
            ConfigError: an unknown or wrong option, an unreadable configuration, or two methods at once.
        """
        arguments = sys.argv[1:] if args is None else list(args)
        refuse_two_methods(arguments)
        try:
            self.config = parser.parse_args(arguments)
        except ArgumentError as error:
            raise explain(str(error), self._options(arguments)) from error
        self._leave_data_of_another_source(arguments)
        self._configs = [Path(value) for flag, value in _flags(arguments) if flag in ("--config", "-c")]

    def before_instantiate_classes(self) -> None:
        """Train what `first` names, whose export is the policy; this run's own settings have been read by now."""
        first = self._get(self.config, "first") if self.subcommand == "fit" else None
        if first is not None:
            path = find_first(first, self._configs)
            policy, trainer = self._get(self.config, "model").init_args.policy, self._get(self.config, "trainer")
            train_first(path, read_yaml(path), str(policy), trainer.num_nodes)

    def _leave_data_of_another_source(self, arguments: list[str]) -> None:
        """Unset what a configuration says about the training data that another source now stands in for."""
        stale = settings_of_replaced_data(arguments)
        if not stale:
            return
        # With a verb, its options have a branch of their own.
        data = self.config.get("data") or self.config[arguments[0]].data
        for name in stale:
            data[name] = None
        names = " and ".join(f"data.{name}" for name in stale)
        note = f"leaving out the configuration's {names}, made for another data.train"
        held_out = data.get("validation") or data.get("val_split")
        rank_zero_only(print)(note if held_out else f"{note}; --data.val_split 0.05 holds out rows of yours")

    def instantiate_classes(self) -> None:
        """Build the objects.

        Raises:
            AlignError: one of them refuses its settings; the parser would wrap what it says in its own words.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            own = _own_error(error)
            if own is None:
                raise
            raise own from None

    def _options(self, arguments: list[str]) -> list[str]:
        parsers: dict[str, LightningArgumentParser] = getattr(self, "_subcommand_parsers", {})
        parser = parsers.get(arguments[0] if arguments else "") or self.parser
        return [option.lstrip("-") for option in parser._option_string_actions]

    def _parse_ckpt_path(self) -> None:
        """Keep the configuration as it was given; Lightning would let a checkpoint's hyperparameters replace it."""

    def after_instantiate_classes(self) -> None:
        """Refuse to measure the untrained policy where a checkpoint was asked for; Lightning would only warn.

        Raises:
            ConfigError: `--ckpt_path last` for another verb than fit, and the run folder holds no complete checkpoint.
        """
        if self.subcommand is None or self._get(self.config, "ckpt_path") != "last":
            return
        # From here on the trainer knows the name of its run folder.
        self.trainer.strategy.connect(self.model)
        folder = self.trainer.default_root_dir
        if any(c._find_last_checkpoints(self.trainer) for c in self.trainer.checkpoint_callbacks):
            return
        earlier = newest_checkpoint(Path(folder) / "checkpoints.old")
        if self.subcommand == "fit":
            aside = f" (an earlier run's newest is {earlier})" if earlier else ""
            rank_zero_only(print)(f"no checkpoint yet in {folder}: starting at step 0{aside}")
        else:
            other = f"name an earlier run's with --ckpt_path {earlier}" if earlier else "train first"
            raise ConfigError(
                "there is no complete checkpoint to go on from",
                got=f"--ckpt_path last with the run folder {folder}",
                fix=f"{other}, set trainer.default_root_dir, or leave --ckpt_path out for the policy as it is",
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer.

        Raises:
            ConfigError: Lightning refuses its settings.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except ConfigError:
            raise
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            raise ConfigError(
                "the Trainer cannot be built", got=str(error), fix="change trainer: in the configuration"
            ) from error


def _own_error(error: BaseException | None) -> AlignError | None:
    """The error of ours that an error was raised from; None where there is none."""
    while error is not None and not isinstance(error, AlignError):
        error = error.__cause__ or error.__context__
    return error


def settings_of_replaced_data(arguments: Sequence[str]) -> list[str]:
    """Settings of `data` that belong to a source of training data which a later file or a flag replaces.

    Args:
        arguments: the verb and its options.

    Returns:
        Names of settings that a configuration makes for its own `data.train`, and nothing after it makes anew.
    """
    train: str | None = None
    made: set[str] = set()
    stale: set[str] = set()
    for is_file, settings in _data_settings(arguments):
        source = settings.get("train", train)
        if train is not None and source != train:
            # An overlay of data is put on a method's file, which knows what the method needs.
            stale |= made - {"convert", "convert_args"} if is_file else made
            made -= stale
        train = source
        made |= {name for name in _OF_THE_SOURCE if settings.get(name) is not None}
        stale -= settings.keys()
    return [name for name in _OF_THE_SOURCE if name in stale]


def _data_settings(arguments: Sequence[str]) -> Iterator[tuple[bool, dict[str, Any]]]:
    """What each configuration file says about the data, in order (True); last, what the flags say (False)."""
    flags: dict[str, Any] = {}
    for flag, value in _flags(arguments):
        if flag in ("--config", "-c") and "://" not in value:
            data = read_yaml(Path(value)).get("data")
            if isinstance(data, str):
                data = read_yaml(Path(value).parent / data)
            yield True, data if isinstance(data, dict) else {}
        elif flag.startswith("--data."):
            # One entry of a mapping, as in --data.columns.prompt, counts for the whole.
            flags[flag.removeprefix("--data.").partition(".")[0]] = value
    yield False, flags


def refuse_two_methods(arguments: Sequence[str]) -> None:
    """Stop a command that names two methods: arguments that both have would leak from the first to the second.

    Raises:
        ConfigError: two different classes, or a configuration that cannot be read.
    """
    named = list(_methods_named(arguments))
    for (where, name), (other, second) in pairwise(named):
        if name != second:
            raise ConfigError(
                "two methods in one command",
                got=f"{name} in {where}, {second} in {other}",
                fix="keep one; overlays for data, trainer or debugging do not set model.class_path",
            )


def _methods_named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Where a method is named, and its class without the package."""
    for flag, value in _flags(arguments):
        if flag in ("--config", "-c") and "://" not in value:
            path, model = Path(value), read_yaml(Path(value)).get("model")
        elif flag in ("--model", "--model.class_path"):
            path, model = Path(flag), value
        else:
            continue
        if isinstance(model, str) and model.endswith((".yaml", ".yml")):
            # A value that is a file is relative to the file that it stands in.
            path = path.parent / model
            model = read_yaml(path)
        name = model.get("class_path") if isinstance(model, dict) else model
        if isinstance(name, str):
            yield str(path), name.rpartition(".")[2]


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with a value, from `--flag value` and `--flag=value`."""
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals:
            yield flag, value
        elif position + 1 < len(arguments):
            yield flag, arguments[position + 1]


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration as plain values.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "the configuration cannot be read",
            got=f"{path}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}",
            fix="`lit-align configs list` names those of the package, `lit-align configs copy` makes one your own",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            "a configuration holds `model:`, `data:` and `trainer:`", got=f"{path}: {type(content).__name__}"
        )
    return content


def main(argv: list[str]) -> None:
    """Run a Trainer verb.

    Args:
        argv: the verb and its options.
    """
    LitAlignCLI(argv)


def silence_noise() -> None:
    """Drop messages that concern our libraries, or advertise; not one that a user could act on."""
    if not sys.stderr.isatty():
        # In a file, the bars of files that are read in an instant would hide what there is to see.
        disable_progress_bar()
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in _ADVISERS:
        logging.getLogger(name).addFilter(lambda record: not any(text in record.getMessage() for text in _ADVICE))
    logging.getLogger("transformers.modeling_utils").addFilter(lambda record: not _is_new_head(record.getMessage()))
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "Failed to load CPU gemm_4bit_forward" not in record.getMessage()
    )


def _is_new_head(message: str) -> bool:
    """Whether transformers reports that a reward model starts with a new head; missing weights we refuse by name."""
    new = "score.weight" in message and "newly initialized" in message
    return new and not any(trouble in message for trouble in ("MISMATCH", "CONVERSION"))
