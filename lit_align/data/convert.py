"""Conversions from one kind of data to another: always asked for by name, never made silently."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from typing import NamedTuple

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.assemble import same_response
from lit_align.data.canonical import IDENTICAL, IDENTICAL_PAIR, TIED, UNDECIDED, UNDESIRABLE, CanonicalRow, Dropped

Converted = list[CanonicalRow | Dropped]


class Conversion(NamedTuple):
    """A way from one kind of data to another."""

    source: DataKind
    target: DataKind
    apply: Callable[[CanonicalRow], Converted]
    """From one row to the rows that come of it, in order."""


def best_worst(row: CanonicalRow) -> Converted:
    """The best response against the worst, of those with equal scores the first; the margin is the gap."""
    scores = _scores(row)
    best = max(range(len(scores)), key=lambda index: scores[index])
    worst = min(range(len(scores)), key=lambda index: scores[index])
    return [_paired(row, [(best, worst)])]


def all_pairs(row: CanonicalRow) -> Converted:
    """Every two responses, the better one chosen; the prompt and each response still stand once."""
    order = _by_score(row)
    return [_paired(row, combinations(order, 2))]


def adjacent_pairs(row: CanonicalRow) -> Converted:
    """Each response against the next worse one in the order of the scores."""
    order = _by_score(row)
    return [_paired(row, pairwise(order))]


def ranked_to_best(row: CanonicalRow) -> Converted:
    """The best response as a demonstration, of those with equal scores the first."""
    scores = _scores(row)
    best = max(range(len(scores)), key=lambda index: scores[index])
    return [row._replace(completions=[row.completions[best]], scores=None, left_out={})]


def pairs_to_unpaired(row: CanonicalRow) -> Converted:
    """Each chosen response as a desirable completion, each rejected one as an undesirable completion.

    A response that is chosen in one pair of the row and rejected in another is left out.
    """
    chosen = {better for better, _ in row.pairs}
    rejected = {worse for _, worse in row.pairs}
    order = dict.fromkeys(index for pair in row.pairs for index in pair)
    rows: Converted = [
        _single(row, index)._replace(label=index in chosen)
        for index in order
        if (index in chosen) != (index in rejected)
    ]
    return rows or [Dropped(row.row, UNDECIDED, "each response is chosen and rejected")]


def pairs_to_chosen(row: CanonicalRow) -> Converted:
    """The chosen responses as demonstrations, those that no pair of the row rejects."""
    rejected = {worse for _, worse in row.pairs}
    order = dict.fromkeys(better for better, _ in row.pairs if better not in rejected)
    rows: Converted = [_single(row, index) for index in order]
    return rows or [Dropped(row.row, UNDECIDED, "each response is rejected")]


def unpaired_to_desirable(row: CanonicalRow) -> Converted:
    """The desirable responses as demonstrations; the others are left out and counted."""
    return [row._replace(label=None) if row.label else Dropped(row.row, UNDESIRABLE)]


CONVERSIONS = {
    "best_worst": Conversion(DataKind.RANKED, DataKind.PAIRS, best_worst),
    "all_pairs": Conversion(DataKind.RANKED, DataKind.PAIRS, all_pairs),
    "adjacent_pairs": Conversion(DataKind.RANKED, DataKind.PAIRS, adjacent_pairs),
    "ranked_to_best": Conversion(DataKind.RANKED, DataKind.DEMONSTRATIONS, ranked_to_best),
    "pairs_to_unpaired": Conversion(DataKind.PAIRS, DataKind.UNPAIRED, pairs_to_unpaired),
    "pairs_to_chosen": Conversion(DataKind.PAIRS, DataKind.DEMONSTRATIONS, pairs_to_chosen),
    "unpaired_to_desirable": Conversion(DataKind.UNPAIRED, DataKind.DEMONSTRATIONS, unpaired_to_desirable),
}
"""All conversions by the name that the setting `convert` takes."""


def find_conversion(name: str, source: DataKind) -> Conversion:
    """Look up a conversion for data of a kind.

    Raises:
        ConfigError: where there is none of that name, or it starts from another kind.
    """
    if name not in CONVERSIONS:
        close = difflib.get_close_matches(name, CONVERSIONS, 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigError(f"there is no conversion '{name}'", got=name, fix=f"{hint}one of: {', '.join(CONVERSIONS)}")
    conversion = CONVERSIONS[name]
    if conversion.source is not source:
        fitting = [other for other, known in CONVERSIONS.items() if known.source is source]
        fix = f"one of: {', '.join(fitting)}" if fitting else "leave data.convert out"
        raise ConfigError(
            f"'{name}' converts {conversion.source.value}, but the data are {source.value}", got=name, fix=fix
        )
    return conversion


def conversions_between(source: DataKind, target: DataKind) -> list[str]:
    """Names of the conversions that make `target` of `source`, for suggestions."""
    return [name for name, known in CONVERSIONS.items() if (known.source, known.target) == (source, target)]


def _scores(row: CanonicalRow) -> list[float]:
    assert row.scores is not None, "only ranked rows have scores to convert by"
    return row.scores


def _by_score(row: CanonicalRow) -> list[int]:
    """Indices of the responses, best first; equal scores in the order of the row."""
    scores = _scores(row)
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _paired(row: CanonicalRow, candidates: Iterable[tuple[int, int]]) -> CanonicalRow | Dropped:
    """Keep the candidate pairs that state a preference, and the responses that take part in one."""
    scores = _scores(row)
    skipped: Counter[str] = Counter()
    pairs: list[tuple[int, int]] = []
    for better, worse in candidates:
        if scores[better] <= scores[worse]:
            skipped[TIED] += 1
        elif same_response(row.completions[better], row.completions[worse]):
            skipped[IDENTICAL_PAIR] += 1
        else:
            pairs.append((better, worse))
    if not pairs:
        return Dropped(row.row, UNDECIDED if skipped[TIED] else IDENTICAL, f"scores {scores}")
    used = sorted({index for pair in pairs for index in pair})
    place = {index: position for position, index in enumerate(used)}
    return row._replace(
        completions=[row.completions[index] for index in used],
        scores=[scores[index] for index in used],
        pairs=[(place[better], place[worse]) for better, worse in pairs],
        margins=[scores[better] - scores[worse] for better, worse in pairs],
        margin=scores[pairs[0][0]] - scores[pairs[0][1]] if len(pairs) == 1 else None,
        left_out=dict(Counter(row.left_out) + skipped),
    )


def _single(row: CanonicalRow, index: int) -> CanonicalRow:
    """One response of a row of pairs, by itself."""
    logps = row.reference_logps
    return row._replace(
        completions=[row.completions[index]],
        scores=None,
        margin=None,
        pairs=[],
        margins=None,
        reference_logps=None if logps is None else [logps[index]],
    )
