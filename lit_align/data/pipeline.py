"""From a source of data to tokenised examples: read, recognise, convert, tokenise, and keep the result."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError
from lit_align.data.cache import ExampleCache, cache_key, source_fingerprint, tokenizer_fingerprint
from lit_align.data.canonical import CanonicalRow, Dropped, Format
from lit_align.data.convert import CONVERSIONS, Conversion, conversions_between, find_conversion
from lit_align.data.demands import NO_DEMANDS, Demands
from lit_align.data.formats import LABELS
from lit_align.data.places import Places, local_path
from lit_align.data.readers import peek, read_rows
from lit_align.data.render import Renderer
from lit_align.data.report import DataReport
from lit_align.data.row_steps import RowSteps
from lit_align.data.schema import recognise
from lit_align.data.second_prompt import JUDGMENT_TEMPLATE
from lit_align.data.sources import InMemory, Source
from lit_align.data.steps import STEP_SEPARATOR, StepEncoder
from lit_align.data.store import ExampleStore, Record
from lit_align.data.tokenise import OnOverlong, Tokeniser

_NOUNS = {
    DataKind.PAIRS: "pairs",
    DataKind.UNPAIRED: "unpaired data",
    DataKind.RANKED: "ranked responses",
    DataKind.SCORED: "scored completions",
    DataKind.JUDGED: "judged completions",
    DataKind.PARAPHRASED: "prompts with a paraphrase",
    DataKind.CONTEXTUAL: "prompts with a context",
    DataKind.STEPS: "labelled steps",
    DataKind.RATED: "rated completions",
    DataKind.COMPARISONS: "comparisons, which are made of pairs",
    DataKind.DEMONSTRATIONS: "demonstrations",
    DataKind.PROMPTS: "prompts",
    DataKind.RESPONSES: "responses",
}
_COLUMNS = {
    DataKind.PAIRS: "prompt, chosen and rejected",
    DataKind.UNPAIRED: "prompt, completion and label",
    DataKind.RANKED: "prompt, responses and scores",
    DataKind.SCORED: "prompt, completion and score",
    DataKind.JUDGED: "prompt, completion, judgment and label",
    DataKind.PARAPHRASED: "prompt, paraphrase and completion",
    DataKind.CONTEXTUAL: "prompt, context and completion",
    DataKind.STEPS: "prompt, completions (the steps) and labels",
    DataKind.RATED: "prompt, response and a column for each attribute, or ratings",
    DataKind.COMPARISONS: "prompt, chosen and rejected",
    DataKind.DEMONSTRATIONS: "prompt and completion, messages, or text",
}
"""The simplest columns of each kind, for errors."""


@dataclass(frozen=True)
class Recipe:
    """Everything besides data and tokenizer that decides how rows become examples; see `PreferenceDataModule`."""

    convert: str | None = None
    convert_args: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str | None] = field(default_factory=dict)
    format: str | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    on_no_preference: Literal["error", "drop"] = "drop"
    max_length: int = 1024
    max_prompt_length: int | None = None
    on_overlong: OnOverlong = "truncate"
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    train_on: Literal["last", "all"] = "all"
    as_chat: bool = False
    separator: str = ""
    judgment_template: str = JUDGMENT_TEMPLATE
    step_separator: str = STEP_SEPARATOR


class Preview(NamedTuple):
    """What the first rows of a source look like."""

    format: Format
    rows: list[tuple[CanonicalRow, Example | Dropped]]
    ends: frozenset[int]
    """Tokens that end a turn."""
    places: Places = Places()
    """Where the rows stand."""
    kind: DataKind | None = None
    """What the examples are for."""


class Pipeline:
    """Turns sources into examples of one kind.

    Args:
        recipe: the settings.
        tokenizer: with the chat template to use.
        kind: what examples are for; None: what each source holds.
        learner: name of the method, for errors.
        end_tokens: ids besides EOS at which the model stops.
        demands: what the rows must have besides.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        kind: DataKind | None,
        *,
        learner: str = "This method",
        end_tokens: tuple[int, ...] = (),
        demands: Demands = NO_DEMANDS,
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.kind = kind
        self.learner = learner
        self.end_tokens = end_tokens
        self.demands = demands

    def cached(self, source: Source, folder: Path, *, training: bool = True) -> tuple[ExampleStore, DataReport]:
        """The examples of a source, from the cache in `folder` or made and put there.

        Args:
            source: see `readers.read_rows`.
            folder: of the cache.
            training: whether they are trained on, which labelled data of one label cannot be.

        Raises:
            DataError: the data cannot be used.
            ConfigError: the settings do not fit the data.
        """
        cache, key = ExampleCache(folder), self.key(source, training=training)
        found = cache.load(key)
        if found is not None:
            store, report = found
            report.places.source = str(source)
            return store, report
        report = DataReport(str(source))
        store = cache.save(key, self.records(source, report, training=training), report)
        return store, report

    def key(self, source: Source, *, training: bool = True) -> str:
        """Names the examples of a source by everything that they depend on."""
        return cache_key(
            {
                "data": fingerprint(source),
                "tokenizer": tokenizer_fingerprint(self.tokenizer),
                "template": hashlib.sha256(repr(self.tokenizer.chat_template).encode()).hexdigest(),
                "end_tokens": sorted(self.end_tokens),
                "kind": self.kind.value if self.kind else None,
                "training": training,
                "demands": asdict(self.demands),
                "recipe": asdict(self.recipe),
            }
        )

    def records(self, source: Source, report: DataReport, *, training: bool = True) -> Iterator[Record]:
        """Reads and tokenises a source row by row, counting in `report`; raises at its end if nothing is left."""
        # Local files are read once, so that no copy of them stays in the cache of `datasets`.
        rows = read_rows(source, streaming=isinstance(source, str) and local_path(source) is not None)
        fmt = self.recognise(str(source), *peek(rows))
        report.format = fmt.describe()
        report.notes += self._notes(str(source), fmt)
        steps = RowSteps(self, fmt, report)
        # Closed before an error is printed: a bar that is still alive would draw over the message.
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
            total = getattr(rows, "num_rows", None)
            yield from steps.records(bar.track(rows, total, description=f"tokenising {escape(str(source))}"))
        steps.finish(training)

    def _notes(self, source: str, fmt: Format) -> list[str]:
        """What the report says besides counts."""
        notes = []
        if self.recipe.convert is not None and self._made_of is fmt.kind and self.conversion(source, fmt) is None:
            notes.append(f"convert: {self.recipe.convert} has nothing to do, the rows are {_NOUNS[fmt.kind]}")
        if fmt.conversational and "strftime_now" in str(self.tokenizer.chat_template):
            notes.append("the chat template writes today's date: examples made on another day differ")
        return notes

    def first(self, source: Source, count: int) -> Preview:
        """The first rows of a source that get as far as the tokeniser, and what comes of them."""
        rows = read_rows(source, streaming=True)
        fmt = self.recognise(str(source), *peek(rows))
        steps = RowSteps(self, fmt, DataReport(str(source)))
        first = list(steps.tokeniser.many(islice(steps.canonical(rows), count)))
        return Preview(fmt, first, steps.tokeniser.specials.ends, steps.report.places, steps.kind)

    def recognise(self, source: str, columns: list[str], first_rows: list[dict[str, Any]]) -> Format:
        """What format a source has; checks that it fits what is to be learnt."""
        recipe = self.recipe
        fmt = recognise(
            columns,
            first_rows,
            mapping=recipe.columns,
            file=source,
            wanted=self._made_of,
            name=recipe.format,
            on_request=self.demands.columns,
            rating_names=self.demands.rating_names,
        )
        self.conversion(source, fmt)
        return fmt

    @property
    def _made_of(self) -> DataKind | None:
        """The kind of rows that examples are made of; None: any."""
        return DataKind.PAIRS if self.kind is DataKind.COMPARISONS else self.kind

    def conversion(self, source: str, fmt: Format) -> Conversion | None:
        """How rows of a format become what is learnt; None where they already are.

        Raises:
            ConfigError: they cannot, or no conversion was asked for.
        """
        wanted, name = self._made_of, self.recipe.convert
        if name is not None and name not in CONVERSIONS:
            find_conversion(name, fmt.kind)
        if wanted is DataKind.RESPONSES and fmt.kind is DataKind.PROMPTS:
            raise ConfigError(
                "There is nothing to score: this file holds prompts without responses.",
                got=f"{source}: {fmt.describe()}",
                fix="Give pairs, ranked or single responses, or let `lit-align generate` write some.",
            )
        if wanted in (DataKind.PROMPTS, DataKind.RESPONSES):
            return None
        if wanted is None:
            return None if name is None else find_conversion(name, fmt.kind)
        fitting = conversions_between(fmt.kind, wanted)
        if name in fitting:
            return find_conversion(name, fmt.kind)
        if wanted is fmt.kind:
            return None
        fix = f"Add convert: {' or '.join(fitting)} under data."
        if (fmt.kind, wanted) == (DataKind.UNPAIRED, DataKind.DEMONSTRATIONS):
            hidden = ", ".join(f"{column}: null" for column in fmt.used if column in LABELS)
            fix = f"{fix} To imitate all responses, whatever their labels say: --data.columns '{{{hidden}}}'."
        if not fitting:
            fix = (
                f"Give data with {_COLUMNS[wanted]}, naming your columns with data.columns if need be, or another "
                "method: there is no conversion between these."
            )
        raise ConfigError(
            f"{self.learner} learns from {_NOUNS[self.kind or wanted]}, and this file holds {_NOUNS[fmt.kind]}.",
            got=f"{source}: {fmt.describe()}" + (f"; convert: {name}" if name else ""),
            fix=fix,
        )

    def tokeniser(self, fmt: Format, report: DataReport) -> Tokeniser:
        """A tokeniser for rows of a format, which counts in `report`."""
        recipe = self.recipe
        renderer = Renderer(
            self.tokenizer,
            chat_template=self.tokenizer.chat_template,
            system_prompt=recipe.system_prompt,
            chat_template_kwargs=recipe.chat_template_kwargs,
            train_on=recipe.train_on,
            as_chat=recipe.as_chat,
            separator=recipe.separator,
        )
        return Tokeniser(
            self.tokenizer,
            self.kind_of(report.source, fmt),
            renderer=renderer,
            max_length=recipe.max_length,
            max_prompt_length=recipe.max_prompt_length,
            on_overlong=recipe.on_overlong,
            end_tokens=self.end_tokens,
            stepwise=self._step_encoder(self.kind_of(report.source, fmt)),
            report=report,
        )

    def _step_encoder(self, kind: DataKind) -> StepEncoder | None:
        """What makes tokens of steps, where examples of the kind are scored by steps."""
        labelling = self.demands.labelling
        if kind is not DataKind.STEPS and (kind is not DataKind.RESPONSES or labelling is None):
            return None
        last_only = labelling is not None and labelling.last_only
        return StepEncoder(self.tokenizer, self.recipe.step_separator, last_only=last_only)

    def kind_of(self, source: str, fmt: Format) -> DataKind:
        """What the examples of a source are for."""
        conversion = self.conversion(source, fmt)
        return self.kind or (conversion.target if conversion else fmt.kind)


def fingerprint(source: Source) -> str:
    """Changes with the data that a source stands for."""
    if isinstance(source, InMemory):
        return source.fingerprint
    path = local_path(source)
    if path is None:
        # A name on the hub: the library knows the revision that it has read.
        return str(read_rows(source)._fingerprint)
    split = "" if path == Path(source).expanduser() else source.rpartition("@")[2]
    return f"{source_fingerprint(path)}@{split}"
