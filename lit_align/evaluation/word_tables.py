"""The most telling words of two sets of texts, as a table and a figure of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from lit_align.evaluation.document import Cell, Document
from lit_align.evaluation.words import Telling, telling_words

_BRIEF, _DRAWN = 5, 10
"""Words of each set that stand on a page at once, and in the figure."""


def add_words(document: Document, first: str, second: str, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Add what tells two sets of texts apart.

    Args:
        document: where.
        first: name of the first set.
        second: name of the second set.
        ours: its texts.
        theirs: its texts.
    """
    words = telling_words(ours, theirs)
    rows: list[list[Cell]] = [
        [word.word, first if word.z > 0 else second, word.z, word.first, word.second] for word in words
    ]
    note = (
        "Weighted log-odds with an informative Dirichlet prior (Monroe et al. 2008): z counts standard deviations, "
        "positive for the first set. Rates are per 1,000 words."
    )
    columns = ["word", "typical of", "z", f"{first}, per 1,000", f"{second}, per 1,000"]
    title = f"Telling words: {first} and {second}"
    document.table(title, columns, rows, note, shown=_ends(words, _BRIEF))
    drawn = [words[place] for place in _ends(words, _DRAWN)]
    if drawn:
        document.figure(
            "bars",
            title,
            unit="z",
            labels=[word.word for word in drawn],
            series={"z": [word.z for word in drawn]},
            owners=[first if word.z > 0 else second for word in drawn],
            horizontal=True,
        )


def _ends(words: Sequence[Telling], most: int) -> list[int]:
    """Places of the words that are most typical of either set."""
    ours = [place for place, word in enumerate(words) if word.z > 0]
    theirs = [place for place, word in enumerate(words) if word.z <= 0]
    return ours[:most] + theirs[-most:]
