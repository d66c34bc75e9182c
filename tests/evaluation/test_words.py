"""Telling words: the formula by hand, and what it does with rare words."""

from __future__ import annotations

import math

import pytest

from lit_align.evaluation.words import count_words, telling_words


def test_words_are_counted_without_signs():
    assert count_words(["Don't stop, don't!", "42 x_y Über"]) == {"don't": 2, "stop": 1, "x": 1, "y": 1, "über": 1}


def test_the_formula_by_hand():
    first, second = telling_words(["cat cat dog"], ["dog"], prior=2.0)
    # Both sets together: cat 2, dog 2; so a prior of 1 for each.
    ours, theirs = 2 + 1, 0 + 1
    delta = math.log(ours / (3 + 2 - ours)) - math.log(theirs / (1 + 2 - theirs))
    assert (first.word, second.word) == ("cat", "dog")
    assert first.z == pytest.approx(delta / math.sqrt(1 / ours + 1 / theirs))
    assert (first.first, first.second) == (pytest.approx(2000 / 3), 0)
    assert second.second == 1000


def test_both_sets_are_named_and_a_change_of_places_turns_the_signs():
    one, other = ["kind kind kind yes please"] * 20, ["rude rude no no please"] * 20
    words = telling_words(one, other, top=4)
    assert [word.word for word in words] == ["kind", "yes", "no", "rude"]
    turned = telling_words(other, one, top=4)
    assert {word.word: word.z for word in turned} == pytest.approx({word.word: -word.z for word in words})


def test_a_rare_word_tells_less_than_a_frequent_one():
    words = telling_words(["often " * 40 + "once"] * 2 + ["plain " * 100], ["plain " * 180])
    z = {word.word: word.z for word in words}
    assert z["often"] > 3 * z["once"] > 0


def test_equal_sets_and_empty_ones():
    assert telling_words([], ["word"]) == []
    assert telling_words(["a b"], ["b a"]) == []
    assert telling_words(["a"], ["a a"]) == []


def test_no_more_words_than_asked_for():
    texts = [" ".join(chr(97 + a) + chr(97 + b) for a in range(26) for b in range(9))]
    assert len(telling_words(texts, ["zz zz"], top=10)) == 10
