"""How much texts repeat themselves, by hand."""

from __future__ import annotations

import pytest

from lit_align.loops.diversity import distinct_n, repetition_rate, words


def test_words():
    assert words("It's A-OK, é2!") == ["it", "s", "a", "ok", "é2"]
    assert words("日本 go ひ") == ["日", "本", "go", "ひ"]
    assert words("") == words("?!") == []


def test_distinct_pairs_of_words():
    # the cat | cat sat ; the cat | cat ran
    assert distinct_n(["The cat sat", "the cat ran"], 2) == 3 / 4
    assert distinct_n(["The cat sat", "the cat ran"], 1) == 4 / 6
    assert distinct_n(["yes", ""], 2) is None


def test_marks_count():
    assert distinct_n(["!!!!!"], 2) == 1 / 4


def test_only_equally_much_text_compares():
    text = "a b c d e f g h"
    assert distinct_n([text] * 2, 2) == 0.5
    assert distinct_n([text] * 2, 2, most=7) == 1


def test_repetition():
    assert repetition_rate(["a b c d e f"]) == 0
    # abab, baba, abab, baba, abab: three of five stand earlier.
    assert repetition_rate(["a b a b a b a b", "a b c d", "too short"]) == pytest.approx((3 / 5 + 0) / 2)
    assert repetition_rate(["one two"]) is None
    assert repetition_rate([]) is None
