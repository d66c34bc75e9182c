"""What a method asks of its data besides their kind: facts of every row, columns to read, both labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lit_align.core.batch import DataKind
from lit_align.core.demand import Demand, StepLabelling
from lit_align.core.errors import DataError
from lit_align.data.canonical import LABEL_PROBABILITY, WIN_PROBABILITIES, CanonicalRow
from lit_align.data.formats import ON_REQUEST
from lit_align.data.places import Places

_MAPPED = "name your columns with data.columns if they are called otherwise"
_SCORES = "add 'score_chosen' and 'score_rejected'"
_FIXES = {
    "margin": ("margin", f"add 'margin', or {_SCORES}; {_MAPPED}; or convert ranked responses with data.convert"),
    "scores": ("score_chosen", f"{_SCORES}; {_MAPPED}; or convert ranked responses with data.convert"),
    "timestamp": ("timestamp", f"add 'timestamp', a number or a date as in 2024-05-31; {_MAPPED}"),
    "target": ("target", f"add 'target'; {_MAPPED}; or convert ranked responses with data.convert"),
    "safety": (
        "chosen_safe",
        f"add 'chosen_safe' and 'rejected_safe', true or false, where the chosen response is the safer one; {_MAPPED}",
    ),
    "label_probability": (
        "label_probability",
        f"add 'label_probability', from 0 to 1: how likely the chosen response is the better one; {_MAPPED}",
    ),
    "win_probabilities": (
        "p_win_chosen",
        f"add 'p_win_chosen' and 'p_win_rejected', from 0 to 1: how likely each response beats others; {_MAPPED}",
    ),
    "source": ("source", f"add 'source': human, or game for a pair that a model made; {_MAPPED}"),
}
"""What a method may need -> the column that is missed, and what to do."""
_HAS: dict[str, Callable[[CanonicalRow], bool]] = {
    "margin": lambda row: row.margins is not None,
    "scores": lambda row: row.scores is not None,
    "timestamp": lambda row: row.timestamp is not None,
    "target": lambda row: row.target is not None,
    "safety": lambda row: row.safe is not None,
    "label_probability": lambda row: row.label_probability is not None,
    "win_probabilities": lambda row: row.win_probabilities is not None,
    "source": lambda row: row.game is not None,
}
_COLUMNS = {
    "safety": ("chosen_safe", "rejected_safe"),
    "label_probability": LABEL_PROBABILITY,
    "win_probabilities": WIN_PROBABILITIES,
}
"""What a method may need or read -> the columns on request, where these have other names."""


_PLURALS = {"margin": "margins", "scores": "scores"}
"""What may have limits."""


@dataclass(frozen=True)
class Demands:
    """What is to be found in data; by default nothing in particular."""

    fields: tuple[str, ...] = ()
    """The names in `_HAS`: what every row must have."""
    columns: tuple[str, ...] = ()
    """Of `formats.ON_REQUEST`: what is read."""
    both_labels: bool = True
    """Whether labelled data of one label are useless."""
    limits: tuple[Demand, ...] = ()
    """Ranges of margins and scores."""
    best_is_target: bool = False
    """Whether the best of ranked responses becomes the target of their pairs."""
    rating_names: tuple[str, ...] = ()
    """Attributes that are rated; none: whatever the data have."""
    labelling: StepLabelling | None = None
    """Whether responses are scored at the ends of their steps, and which of these are learnt from."""

    def check(self, row: CanonicalRow, places: Places, learner: str) -> None:
        """Refuse a row that lacks something, or has a number that the method cannot use.

        Args:
            row: converted, as it would be learnt.
            places: where rows stand.
            learner: name of the method.

        Raises:
            DataError: it does.
        """
        for name in self.fields:
            if not _HAS[name](row):
                file, number = places.find(row.row)
                field, fix = _FIXES[name]
                what = f"{learner} needs the {name.replace('_', ' ')} of every pair, and a row has none"
                raise DataError(what, file=file, row=number, field=field, value="null", fix=fix)
        for limit in self.limits:
            for field, value in _numbers(row, limit.name):
                if not limit.allows(value):
                    file, number = places.find(row.row)
                    what = f"{learner} needs {_PLURALS[limit.name]} {limit.wanted}, and a row has another"
                    raise DataError(what, file=file, row=number, field=field, value=value, fix=limit.fix)


NO_DEMANDS = Demands()


def demands_of(method: Any, kind: DataKind | None) -> Demands:
    """What a method asks of data of a kind: nothing where it does not learn from these.

    Args:
        method: an `AlignmentModule`; None: nobody is to learn from the data, so that timestamps are read.
        kind: what the data are read as.
    """
    if method is None:
        return Demands(columns=("timestamp",))
    own_kind = getattr(method, "data_kind", None)
    if kind is DataKind.RESPONSES:
        # What is scored is read like what is learnt: the safer response of a pair is the chosen one.
        safety = _COLUMNS["safety"] if "safety" in getattr(method, "needs_fields", ()) else ()
        return Demands(columns=safety, rating_names=_rating_names(method), labelling=_labelling(method))
    if kind is None or kind is not own_kind:
        return NO_DEMANDS
    own: tuple[Demand, ...] = getattr(method, "demands", ())
    needed = frozenset(getattr(method, "needs_fields", ())) | {demand.name for demand in own}
    assert needed <= _HAS.keys(), f"needs_fields names what no row has: {sorted(needed - _HAS.keys())}"
    wanted = needed | frozenset(getattr(method, "reads", ()))
    wanted |= {"target"} if getattr(method, "reads_target", False) else frozenset()
    wanted |= {column for name in needed for column in _COLUMNS.get(name, ())}
    return Demands(
        fields=tuple(name for name in _HAS if name in needed),
        columns=tuple(name for name in ON_REQUEST[DataKind.PAIRS] if name in wanted),
        both_labels=getattr(method, "needs_both_labels", True),
        limits=tuple(demand for demand in own if demand.name in _PLURALS),
        best_is_target=getattr(method, "best_is_target", False),
        rating_names=_rating_names(method),
        labelling=_labelling(method),
    )


def _rating_names(method: Any) -> tuple[str, ...]:
    return tuple(method.rating_names) if getattr(method, "data_kind", None) is DataKind.RATED else ()


def _labelling(method: Any) -> StepLabelling | None:
    """How a method learns from steps; None where it does not."""
    if getattr(method, "data_kind", None) is not DataKind.STEPS:
        return None
    labelling: StepLabelling = getattr(method, "step_labelling", StepLabelling())
    return labelling


def _numbers(row: CanonicalRow, name: str) -> Iterator[tuple[str, float]]:
    """The margins or the scores of a row, each with the column where it is to be found."""
    if name == "margin":
        yield from (("margin", value) for value in row.margins or ())
        return
    scores = row.scores or []
    if row.pairs == [(0, 1)] and len(scores) == 2:
        columns = ["score_chosen", "score_rejected"]
    else:
        columns = ["score"] if len(scores) == 1 else [f"scores[{place}]" for place in range(len(scores))]
    yield from zip(columns, scores, strict=True)
