"""From a source of data to tokenised examples: read, recognise, convert, tokenise, and keep the result."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.progress import track
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.cache import ExampleCache, cache_key, source_fingerprint, tokenizer_fingerprint
from lit_align.data.canonical import CanonicalRow, Dropped, Format, Rules
from lit_align.data.checks import SetChecks
from lit_align.data.convert import Conversion, conversions_between, find_conversion
from lit_align.data.readers import FILE_COLUMN, ROW_COLUMN, peek, read_rows
from lit_align.data.render import Renderer, group_key
from lit_align.data.report import DataReport
from lit_align.data.schema import normalise, recognise
from lit_align.data.store import ExampleStore, Record
from lit_align.data.tokenise import OnOverlong, Tokeniser

_NOUNS = {
    DataKind.PAIRS: "pairs",
    DataKind.UNPAIRED: "unpaired data",
    DataKind.RANKED: "ranked responses",
    DataKind.DEMONSTRATIONS: "demonstrations",
    DataKind.PROMPTS: "prompts",
}


@dataclass(frozen=True)
class Recipe:
    """Everything besides data and tokenizer that decides how rows become examples; see `PreferenceDataModule`."""

    convert: str | None = None
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


class Pipeline:
    """Turns sources into examples of one kind.

    Args:
        recipe: the settings.
        tokenizer: with the chat template to use.
        kind: what examples are for; None: what each source holds.
        learner: name of the method, for errors.
        end_tokens: ids besides EOS at which the model stops.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        kind: DataKind | None,
        *,
        learner: str = "This method",
        end_tokens: tuple[int, ...] = (),
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.kind = kind
        self.learner = learner
        self.end_tokens = end_tokens

    def cached(self, source: str, folder: Path, *, training: bool = True) -> tuple[ExampleStore, DataReport]:
        """The examples of a source, from the cache in `folder` or made and put there.

        Args:
            source: see `readers.read_rows`.
            folder: of the cache.
            training: whether they are trained on, which labelled data of one label cannot be.

        Raises:
            DataError: the data cannot be used.
            ConfigError: the settings do not fit the data.
        """
        cache, settings = ExampleCache(folder), self._settings(source, training)
        key = cache_key(settings)
        found = cache.load(key)
        if found is not None:
            store, report = found
            report.source = source
            return store, report
        report = DataReport(source)
        store = cache.save(key, self.records(source, report, training=training), report, settings)
        return store, report

    def records(self, source: str, report: DataReport, *, training: bool = True) -> Iterator[Record]:
        """Reads and tokenises a source row by row, counting in `report`; raises at its end if nothing is left."""
        rows = read_rows(source)
        fmt = self.recognise(source, *peek(rows))
        report.format = fmt.describe()
        steps = RowSteps(self, fmt, report)
        iterable: Iterable[dict[str, Any]] = rows
        if sys.stderr.isatty():
            iterable = track(rows, f"tokenising {source}", total=len(rows))
        yield from steps.records(iterable)
        steps.checks.finish(training)

    def recognise(self, source: str, columns: list[str], first_rows: list[dict[str, Any]]) -> Format:
        """What format a source has; checks that it fits what is to be learnt."""
        recipe = self.recipe
        fmt = recognise(
            columns, first_rows, mapping=recipe.columns, file=source, wanted=self.kind, name=recipe.format
        )
        self.conversion(source, fmt)
        return fmt

    def conversion(self, source: str, fmt: Format) -> Conversion | None:
        """How rows of a format become what is learnt; None where they already are.

        Raises:
            ConfigError: they cannot, or no conversion was asked for.
        """
        name = self.recipe.convert
        if self.kind is DataKind.PROMPTS or (self.kind in (None, fmt.kind) and name is None):
            return None
        if name is None or (self.kind is not fmt.kind and not conversions_between(fmt.kind, self.kind or fmt.kind)):
            assert self.kind is not None
            raise self._wrong_kind(fmt, source, self.kind)
        conversion = find_conversion(name, fmt.kind) if self.kind is not fmt.kind else None
        if conversion is not None and self.kind not in (None, conversion.target):
            assert self.kind is not None
            raise self._wrong_kind(fmt, source, self.kind)
        return conversion

    def tokeniser(self, fmt: Format, source: str, report: DataReport) -> Tokeniser:
        """A tokeniser for rows of a format."""
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
            self.kind_of(source, fmt),
            renderer=renderer,
            max_length=recipe.max_length,
            max_prompt_length=recipe.max_prompt_length,
            on_overlong=recipe.on_overlong,
            end_tokens=self.end_tokens,
            source=source,
            report=report,
        )

    def kind_of(self, source: str, fmt: Format) -> DataKind:
        """What the examples of a source are for."""
        conversion = self.conversion(source, fmt)
        return self.kind or (conversion.target if conversion else fmt.kind)

    def _settings(self, source: str, training: bool) -> dict[str, Any]:
        """What the examples of a source depend on, as JSON values."""
        template = self.tokenizer.chat_template
        return {
            "data": fingerprint(source),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "template": hashlib.sha256(repr(template).encode()).hexdigest(),
            "end_tokens": sorted(self.end_tokens),
            "kind": self.kind.value if self.kind else None,
            "training": training,
            "recipe": asdict(self.recipe),
        }

    def _wrong_kind(self, fmt: Format, source: str, wanted: DataKind) -> ConfigError:
        names = conversions_between(fmt.kind, wanted)
        fix = "Give other data, or another method: there is no conversion between these."
        if names:
            others = f" (or {', '.join(names[1:])})" if names[1:] else ""
            fix = f"Add convert: {names[0]}{others} under data."
        return ConfigError(
            f"{self.learner} learns from {_NOUNS[wanted]}, and this file holds {_NOUNS[fmt.kind]}.",
            got=f"{source}: {fmt.describe()}",
            fix=fix,
        )


class RowSteps:
    """The steps of one source's rows: check, convert, tokenise, count.

    Args:
        pipeline: the settings.
        fmt: of the source.
        report: where to count.
    """

    def __init__(self, pipeline: Pipeline, fmt: Format, report: DataReport) -> None:
        recipe = pipeline.recipe
        self.fmt = fmt
        self.report = report
        self.columns = recipe.columns
        self.rules = Rules(on_bad_row=recipe.on_bad_row, on_no_preference=recipe.on_no_preference)
        self.conversion = pipeline.conversion(report.source, fmt)
        self.checks = SetChecks(pipeline.kind_of(report.source, fmt), report.source, self.rules)
        self.tokeniser = pipeline.tokeniser(fmt, report.source, report)

    def records(self, rows: Iterable[dict[str, Any]]) -> Iterator[Record]:
        """Examples of raw rows."""
        for row, example in self.tokeniser.many(self.canonical(rows)):
            self.checks.result(example if isinstance(example, Dropped) else row)
            if not isinstance(example, Dropped):
                yield Record(example, _group(row))

    def canonical(self, rows: Iterable[dict[str, Any]]) -> Iterator[CanonicalRow]:
        """Checked and converted rows."""
        for raw in rows:
            self.report.read += 1
            number, file = int(raw[ROW_COLUMN]), str(raw.get(FILE_COLUMN) or self.report.source)
            row = self.checks.source(normalise(raw, self.fmt, self.columns, file, number, self.rules), file)
            convert = self.conversion.apply if self.conversion is not None else None
            for result in [row] if convert is None or isinstance(row, Dropped) else convert(row):
                if isinstance(result, Dropped):
                    self.report.drop(result.row, result.reason)
                    self.checks.result(result)
                else:
                    yield result


def fingerprint(source: str) -> str:
    """Changes with the data that a source stands for."""
    path, at, split = Path(source).expanduser(), "", ""
    if not path.exists():
        name, at, split = source.rpartition("@")
        path = Path(name or source).expanduser()
    if path.exists():
        return source_fingerprint(path) + at + split
    # A name on the hub: the library knows the revision that it has read.
    return str(read_rows(source)._fingerprint)


def _group(row: CanonicalRow) -> int:
    digest = hashlib.sha256(group_key(row).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
