"""Telling words in a document: a table that is shown in part, and a figure of both sides."""

from __future__ import annotations

from lit_align.evaluation.document import Document
from lit_align.evaluation.word_tables import add_words


def test_both_sides_are_shown_and_drawn():
    document = Document("rewards", "t", 0)
    ours = [f"good{letter} " * (30 - n) for n, letter in enumerate("abcdefghijklmnopqrst")]
    theirs = [f"bad{letter} " * (30 - n) for n, letter in enumerate("abcdefghijklmnopqrst")]
    add_words(document, "chosen", "rejected", [" ".join(ours)], [" ".join(theirs)])
    (table,), (figure,) = document.tables, document.figures
    shown = [table["rows"][place] for place in table["shown"]]
    assert [row[1] for row in shown] == ["chosen"] * 5 + ["rejected"] * 5
    assert [row[0] for row in shown[:2]] == ["gooda", "goodb"]
    assert [row[0] for row in shown[-2:]] == ["badb", "bada"], "the most telling ones are the last"
    assert figure["owners"] == ["chosen"] * 10 + ["rejected"] * 10
    assert figure["series"]["z"] == sorted(figure["series"]["z"], reverse=True)
    assert figure["title"] == table["title"]


def test_few_words_are_shown_whole_and_none_are_nothing():
    document = Document("rewards", "t", 0)
    add_words(document, "a", "b", ["one one two"], ["two"])
    assert "shown" not in document.tables[0]
    add_words(document, "c", "d", ["same"], ["same"])
    assert len(document.tables) == len(document.figures) == 1
