"""What only a whole set of rows can show: names given twice, and labels that are all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from lit_align.data.canonical import BAD_ROW, DEFAULT_RULES, CanonicalRow, Dropped, Rules
from lit_align.data.places import Places
from lit_align.data.tokenise import OVERLONG

_REPEATED_ID = "two rows have the same id"


class SetChecks:
    """Watches the rows of one set go by.

    Args:
        kind: what the rows are trained on as, after conversion.
        places: where the rows stand, for messages.
        rules: what becomes of rows that cannot be trained on.
    """

    def __init__(self, kind: DataKind, places: Places, rules: Rules = DEFAULT_RULES) -> None:
        self.kind, self.places, self.rules = kind, places, rules
        self._first_row_of: dict[str, int] = {}
        self._labels: dict[bool, int] = {}
        self._last_reason = ""
        self._reasons: Counter[str] = Counter()
        self._kept = self._dropped = 0

    def source(self, row: CanonicalRow | Dropped) -> CanonicalRow | Dropped:
        """Look at a row as it was read, before any conversion (which may make several rows of one id).

        Raises:
            DataError: where another row has the same id.
        """
        if isinstance(row, Dropped) or row.id is None:
            return row
        first = self._first_row_of.setdefault(row.id, row.row)
        if first == row.row:
            return row
        (file, number), (first_file, first_number) = self.places.find(row.row), self.places.find(first)
        error = DataError(
            _REPEATED_ID,
            file=file,
            row=number,
            field="id",
            value=f"{row.id}, first in row {first_number} of {first_file}",
            fix="remove one of them, or leave the column out with data.columns={id: null}",
        )
        if self.rules.on_bad_row == "error":
            raise error
        return Dropped(row.row, f"{BAD_ROW}: {_REPEATED_ID}", str(error))

    def result(self, row: CanonicalRow | Dropped) -> None:
        """Count a row that is to be trained on, or dropped for whatever reason."""
        if isinstance(row, Dropped):
            self._dropped += 1
            self._reasons[row.reason] += 1
            self._last_reason = f"row {self.places.label(row.row)}: {row.reason}"
            return
        self._kept += 1
        if row.label is not None:
            self._labels.setdefault(row.label, row.row)

    def finish(self, training: bool = True) -> None:
        """Look at the set as a whole.

        Args:
            training: whether it is to be trained on by a method to which one label says nothing.

        Raises:
            DataError: where no row is left, or all labels are the same.
        """
        if not self._kept:
            what = f"no row is left: all {self._dropped} were dropped" if self._dropped else "a set has no rows"
            reasons = ", ".join(f"{reason} ({number})" for reason, number in self._reasons.most_common())
            fix = "mend the data, or allow longer rows with data.max_length" if OVERLONG in reasons else "mend the data"
            fix = f"{fix}; dropped: {reasons}" if reasons else fix
            raise DataError(what, file=self.places.source, value=self._last_reason or "0 rows", fix=fix)
        if training and self.kind is DataKind.UNPAIRED and len(self._labels) == 1:
            label = next(iter(self._labels))
            missing = "undesirable" if label else "desirable"
            file, number = self.places.find(self._labels[label])
            raise DataError(
                f"all {self._kept} labels are the same, so there is no preference to learn",
                file=file,
                row=number,
                field="label",
                value=label,
                fix=f"add {missing} completions (label {str(not label).lower()}), or fine-tune with SFT instead",
            )


def check_split_labels(labels: Mapping[bool, int], source: str, amount: float, seed: int) -> None:
    """Refuse a split that leaves one label to learn from, although the set has both.

    Args:
        labels: how many examples of the training part have each label; empty where they have none.
        source: of the set, for messages.
        amount: that was held out, as `val_split` says it.
        seed: of the split.

    Raises:
        DataError: all labels of the training part are the same.
    """
    if len(labels) != 1:
        return
    [(label, count)] = labels.items()
    missing = "undesirable" if label else "desirable"
    raise DataError(
        f"the validation split leaves {count} labels that are all the same, so there is no preference to learn",
        file=source,
        field="label",
        value=f"{str(label).lower()}; data.val_split {amount}, data.split_seed {seed}",
        fix=f"add {missing} completions (label {str(not label).lower()}), set another data.split_seed, or give "
        "held-out data as data.validation",
    )
