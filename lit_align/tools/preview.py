"""`lit-align preview`: the first rows as the model will see them, without a GPU and without a model's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, cast
from unicodedata import category

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lit_align.cli import LitAlignCLI
from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError
from lit_align.data.canonical import Dropped
from lit_align.data.module import PreferenceDataModule
from lit_align.data.pipeline import Preview
from lit_align.trainer import RUNS, run_name

_STYLES = {True: "bold green", False: "dim"}
_SHORT_NAMES = {"val": "validation"}
_OPEN, _CLOSE = "[[", "]]"
"""Stand around what is learnt where there are no colours."""


def main(argv: list[str]) -> None:
    """Print the format, the template and the first rows of a configuration's data.

    Args:
        argv: `--config` and the options of `lit-align fit`; `--rows` and `--split` besides.
    """
    cli = _PreviewCLI(argv)
    data = cast(PreferenceDataModule, cli.datamodule)
    if cli.config["round"] is not None:
        given = cli.config["trainer"]["default_root_dir"]
        _show_round(data, cli.model, Path(given or RUNS / run_name(type(cli.model))), cli.config["round"])
    split = _SHORT_NAMES.get(cli.config["split"], cli.config["split"])
    preview = data.preview(split, cli.config["rows"], method=cli.model)
    show(preview, data.tokenizer, Console(highlight=False, soft_wrap=True))


class _PreviewCLI(LitAlignCLI):
    """Parses what `fit` parses; builds the data and the method, which holds no weights yet, and no Trainer."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(args=argv, run=False)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser of this name."""
        return super().init_parser(**{**kwargs, "prog": "lit-align preview"})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options of this tool."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--rows", type=int, default=3, help="how many rows to show")
        splits = Literal["train", "validation", "val", "test", "predict"]
        parser.add_argument("--round", type=int, help="show what this round of a loop has made, in place of data.train")
        parser.add_argument("--split", type=splits, default="train", help="which data to show")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Nothing: the settings may name devices that this machine does not have."""
        return cast(Trainer, None)


def _show_round(data: PreferenceDataModule, method: LightningModule, run: Path, number: int) -> None:
    """Let a preview show what a round learns from.

    Raises:
        ConfigError: there is no such round.
    """
    # Here, since most previews do without loops.
    from lit_align.loops.store import TRAIN, RoundFolder

    folder = RoundFolder.of(run, number)
    if TRAIN not in folder.steps:
        fix = "list the rounds with `lit-align rounds RUN`; the run is trainer.default_root_dir of the configuration"
        raise ConfigError("the round has no rows to learn from", got=str(folder.path), fix=fix)
    data.show_round(folder.file(TRAIN), method, folder.manifest["max_new_tokens"])


def show(preview: Preview, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print a preview; what is learnt is coloured, or stands in double brackets."""
    console.print(Text(preview.format.describe(), style="bold"))
    if tokenizer.chat_template is not None:
        console.print(Text("\nchat template", style="bold"))
        console.print(Text(_visible(str(tokenizer.chat_template))))
    ends = ", ".join(repr(tokenizer.decode([token])) for token in sorted(preview.ends))
    console.print(Text(f"\na turn ends with {ends}; learnt: ", style="bold").append(_mark("like this", True, console)))
    for row, example in preview.rows:
        console.print(Text(f"\nrow {preview.places.label(row.row)}", style="bold"))
        if isinstance(example, Dropped):
            console.print(Text(f"  dropped: {example.reason}", style="red"))
            continue
        for number in range(len(example.ids)):
            console.print(Text(_caption(example, number, preview), style="cyan"))
            console.print(_coloured(example, number, tokenizer, console))


def _caption(example: Example, number: int, preview: Preview) -> str:
    prompt, length = example.prompt_lengths[number], len(example.ids[number])
    name = ", ".join(_roles(example, number, preview)) or "text"
    end = "" if preview.kind is DataKind.STEPS else f"; {_end(example, number, preview.ends)}"
    learnt = sum(_scored(example, number))
    return f"  {name}: prompt {prompt} tokens, completion {length - prompt}, of these learnt {learnt}{end}"


def _end(example: Example, number: int, ends: frozenset[int]) -> str:
    if example.truncated is not None and not example.truncated[number]:
        return "whole"
    return "ends its turn" if example.ids[number][-1] in ends else "its end was cut off"


def _roles(example: Example, number: int, preview: Preview) -> list[str]:
    """What the data say of a response."""
    if preview.kind is DataKind.COMPARISONS:
        return [f"chosen stands {'second' if number else 'first'}"]
    if preview.kind is DataKind.STEPS:
        return ["steps labelled " + ", ".join(f"{label:g}" for label in example.step_labels or [])]
    roles = [
        f"{role} in pair {pair}" if len(example.pairs) > 1 else role
        for pair, members in enumerate(example.pairs, start=1)
        for role, member in zip(("chosen", "rejected"), members, strict=True)
        if member == number
    ]
    if example.label is not None:
        roles = ["desirable" if example.label else "undesirable"]
    if number == example.target:
        roles = ["target"]
    elif number and not example.pairs and example.scores is None:
        roles += ["after the second prompt"]
    if example.scores is not None and number < len(example.scores):
        roles += [f"score {example.scores[number]:g}"]
    if example.safe is not None and number < len(example.safe):
        roles += ["harmless" if example.safe[number] else "harmful"]
    if example.weights is not None and roles[:1] == ["chosen"]:
        roles += [f"weight {example.weights[0]:g}"]
    named = zip(preview.format.rating_names, example.ratings or (), strict=False)
    return roles + [f"{name} {'null' if math.isnan(rating) else format(rating, 'g')}" for name, rating in named]


def _scored(example: Example, number: int) -> list[bool]:
    prompt, length = example.prompt_lengths[number], len(example.ids[number])
    mask = [1] * (length - prompt) if example.masks is None else example.masks[number]
    return [False] * prompt + [bool(value) for value in mask]


def _coloured(example: Example, number: int, tokenizer: PreTrainedTokenizerBase, console: Console) -> Text:
    text = Text("  ")
    labels = iter(example.step_labels or ())
    scored = _scored(example, number)
    for learnt, count, words in _runs(example.ids[number], scored, tokenizer):
        for label in islice(labels, count if learnt else 0):
            # In front of the separator, which may be the end of a line.
            text.append(f"<{label:g}>", style="bold green" if label > 0.5 else "bold red")
        text.append(_mark(words, learnt, console))
    return text


def _runs(ids: list[int], scored: list[bool], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[bool, int, str]]:
    """The text in stretches that are learnt or not, with their tokens' number.

    It is decoded from the start, since tokens depend on what is before.
    """
    end, before = 0, ""
    for value, group in groupby(scored):
        count = len(list(group))
        end += count
        after = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        yield value, count, after[len(before) :]
        before = after


def _mark(words: str, scored: bool, console: Console) -> Text:
    words = _visible(words)
    if scored and console.color_system is None:
        words = f"{_OPEN}{words}{_CLOSE}"
    return Text(words, style=_STYLES[scored])


def _visible(words: str) -> str:
    """Control characters spelt out: those of the data would else move the cursor, or change what was printed."""
    return "".join(c if c in "\n\t" or category(c) != "Cc" else repr(c)[1:-1] for c in words)
