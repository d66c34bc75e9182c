"""The steps of one source's rows on their way to examples: check, convert, tokenise, count."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lit_align.core.batch import DataKind, Example
from lit_align.core.demand import StepLabelling
from lit_align.core.errors import DataError
from lit_align.data.canonical import BAD_ROW, CanonicalRow, Dropped, Format, Rules
from lit_align.data.checks import SetChecks
from lit_align.data.pairing import best_as_target, listed, single_pairs
from lit_align.data.render import group_key
from lit_align.data.report import DataReport
from lit_align.data.schema import normalise, undecided_row
from lit_align.data.second_prompt import state_judgment
from lit_align.data.steps import label_steps
from lit_align.data.store import Record

if TYPE_CHECKING:
    from lit_align.data.pipeline import Pipeline


class RowSteps:
    """The steps of one source's rows: check, convert, tokenise, count.

    Args:
        pipeline: the settings.
        fmt: of the source.
        report: where to count.
        check_ids: refuse rows with the id of an earlier row, which takes memory for every row.
    """

    def __init__(self, pipeline: Pipeline, fmt: Format, report: DataReport, *, check_ids: bool = True) -> None:
        self.check_ids = check_ids
        recipe = pipeline.recipe
        self.fmt = fmt
        self.report = report
        self.columns = recipe.columns
        self.rules = Rules(on_bad_row=recipe.on_bad_row, on_no_preference=recipe.on_no_preference)
        conversion = pipeline.conversion(report.source, fmt)
        self.convert = None if conversion is None else conversion.bind(recipe.convert_args)
        self.kind = pipeline.kind_of(report.source, fmt)
        self.demands, self.learner = pipeline.demands, pipeline.learner
        self.judgment_template, self.step_separator = recipe.judgment_template, recipe.step_separator
        self.checks = SetChecks(self.kind, report.places, self.rules)
        self.tokeniser = pipeline.tokeniser(fmt, report)
        self._step_labels: set[float] = set()

    def records(self, rows: Iterable[dict[str, Any]]) -> Iterator[Record]:
        """Examples of raw rows."""
        for row, example in self.tokeniser.many(self.canonical(rows)):
            self.checks.result(example if isinstance(example, Dropped) else row)
            if not isinstance(example, Dropped):
                self._count(row, example)
                yield Record(example, _group(row))

    def _count(self, row: CanonicalRow, example: Example) -> None:
        """Count what the data say of an example that is kept."""
        report = self.report
        if example.label is not None:
            report.labels[example.label] += 1
        if self.kind is DataKind.STEPS and row.steps and example.step_labels:
            self._step_labels |= {*example.step_labels}
            right = sum(label > 0.5 for label in example.step_labels)
            report.count("steps", "right", right)
            report.count("steps", "wrong", len(example.step_labels) - right)
            report.count("steps", "not learnt", len(row.steps) - len(example.step_labels))
        for name, rating in zip(self.fmt.rating_names, example.ratings or (), strict=False):
            report.count("ratings", name, int(not math.isnan(rating)))
        for chosen, rejected in example.pairs if example.safe else ():
            assert example.safe is not None
            report.count("harmless", "chosen", example.safe[chosen])
            report.count("harmless", "rejected", example.safe[rejected])

    def canonical(self, rows: Iterable[dict[str, Any]]) -> Iterator[CanonicalRow]:
        """Checked and converted rows."""
        for raw in rows:
            self.report.read += 1
            row = normalise(raw, self.fmt, self.columns, self.report.source, rules=self.rules)
            row = row._replace(row=self.report.places.number(raw))
            row = self.checks.source(row) if self.check_ids else row
            for result in [row] if isinstance(row, Dropped) else self._learnable(row):
                if isinstance(result, Dropped):
                    self.report.drop(result.row, result.reason)
                    self.checks.result(result)
                else:
                    yield result

    def finish(self, training: bool) -> None:
        """Look at the set as a whole, once all its rows were read; see `SetChecks.finish`.

        Raises:
            DataError: it cannot be learnt from.
        """
        self.checks.finish(training and self.demands.both_labels)
        if training and self.demands.both_labels and len(self._step_labels) == 1:
            label = next(iter(self._step_labels))
            self.report.notes.append(f"all steps that are learnt have the label {label:g}: nothing can be told apart")
        if training and self.kind is DataKind.RATED:
            self._check_ratings()

    def _check_ratings(self) -> None:
        """Refuse attributes that no row has a rating of, as where a name is misspelt."""
        rated = self.report.counts["ratings"]
        missing = [name for name in self.demands.rating_names if not rated[name]]
        if missing:
            raise DataError(
                "an attribute that is to be learnt has no rating in any row",
                file=self.report.source,
                field=missing[0],
                value=f"ratings of {', '.join(rated)}",
                fix=f"name it as the data do, or let the method learn {', '.join(rated)} only",
            )

    def _learnable(self, row: CanonicalRow) -> Iterator[CanonicalRow | Dropped]:
        """What comes of a row that was read: converted, and with all that its method asks for."""
        if self.demands.best_is_target and self.fmt.kind is DataKind.RANKED:
            row = best_as_target(row)
        if row.steps is not None:
            row = row._replace(completions=[self.step_separator.join(row.steps)])
        for result in [row] if self.convert is None else self.convert(row):
            checked = result if isinstance(result, Dropped) else self._checked(result)
            if self.kind is DataKind.COMPARISONS and isinstance(checked, CanonicalRow):
                yield from single_pairs(checked)
            else:
                yield checked

    def _checked(self, row: CanonicalRow) -> CanonicalRow | Dropped:
        try:
            self.demands.check(row, self.report.places, self.learner)
        except DataError as error:
            if self.rules.on_bad_row == "error":
                raise
            return Dropped(row.row, f"{BAD_ROW}: {error.what}", str(error))
        result = self._stated(row)
        if isinstance(result, Dropped) and self.rules.on_no_preference == "error":
            file, number = self.report.places.find(row.row)
            raise undecided_row(result, file, number)
        return result

    def _stated(self, row: CanonicalRow) -> CanonicalRow | Dropped:
        """The row as its kind is learnt, or why it says nothing."""
        if self.kind is DataKind.JUDGED:
            return state_judgment(row, self.judgment_template)
        if self.kind is DataKind.STEPS:
            return label_steps(row, self.demands.labelling or StepLabelling())
        return listed(row) if self.kind is DataKind.RANKED else row


def _group(row: CanonicalRow) -> int:
    digest = hashlib.sha256(group_key(row).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
