"""From a judge's verdicts to labelled pairs."""

from __future__ import annotations

from collections import Counter

import pytest

from lit_align.core.errors import ConfigError
from lit_align.loops.ai_labels import UNJUDGED, comparable, judge_figures, labelled
from lit_align.loops.pairs import REPEATED, TIED, TOO_FEW, UNFINISHED
from lit_align.loops.principles import PRINCIPLES, check_principles, draw_principle


def candidate(name, sample, text, finished=True):
    return {"id": name, "sample": sample, "completion": text, "tokens": 3, "finished": finished}


def verdict(probability, orders=None, first=0, second=1):
    return {"id": "a", "first": first, "second": second, "probability": probability, "reason": "", "orders": orders}


def test_what_cannot_be_compared_is_left_out_and_counted():
    counts = Counter()
    rows = [candidate("a", 0, "x"), candidate("a", 1, "y"), candidate("b", 0, "x"), candidate("b", 1, " x"),
            candidate("c", 0, "x"), candidate("c", 1, "y", finished=False)]  # fmt: skip
    kept = comparable(rows, counts, keep_unfinished=False)
    assert [(row["id"], row["sample"]) for row in kept] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    assert counts == {REPEATED: 1, UNFINISHED: 1, TOO_FEW: 2}


def test_the_likelier_better_answer_is_chosen():
    rows = [candidate("a", 0, "x"), candidate("a", 1, "y"), candidate("a", 2, "z")]
    counts = Counter()
    given = [verdict(0.3), verdict(0.9, first=0, second=2), verdict(None, first=1, second=2)]
    found = labelled(rows, given, ties=True, counts=counts)
    assert [(one.pair.chosen.text, one.pair.rejected.text, one.probability) for one in found] == [
        ("y", "x", 0.7),
        ("x", "z", 0.9),
    ]
    assert counts == {UNJUDGED: 1}


def test_ties_are_labels_or_left_out():
    rows, counts = [candidate("a", 0, "x"), candidate("a", 1, "y")], Counter()
    assert [one.probability for one in labelled(rows, [verdict(0.5)], ties=True, counts=counts)] == [0.5]
    assert not counts
    assert labelled(rows, [verdict(0.5)], ties=False, counts=counts) == []
    assert counts == {TIED: 1}


def test_the_bias_for_a_place_is_told_from_a_preference():
    """One pair whose first place wins in both orders, one that is decided alike in both."""
    figures = judge_figures([verdict(0.55, (0.7, 0.4)), verdict(0.8, (0.9, 0.7)), verdict(None)])
    assert figures["same_place_wins"] == 0.5
    # Shown first: 0.7 and 0.6; 0.9 and 0.3.
    assert figures["first_place"] == pytest.approx((0.7 + 0.6 + 0.9 + 0.3) / 4)
    assert figures["label_confidence"] == pytest.approx((0.05 + 0.3) / 2)
    assert set(judge_figures([verdict(0.8)])) == {"label_confidence"}
    assert judge_figures([]) == {}


def test_principles_are_drawn_by_their_key_and_all_of_them():
    drawn = [draw_principle(PRINCIPLES, 0, 1, number) for number in range(200)]
    assert drawn == [draw_principle(PRINCIPLES, 0, 1, number) for number in range(200)]
    assert set(drawn) == set(PRINCIPLES)
    assert drawn != [draw_principle(PRINCIPLES, 0, 2, number) for number in range(200)]


@pytest.mark.parametrize("principles", [[], ["be kind", " "]])
def test_a_constitution_of_nothing_is_refused(principles):
    with pytest.raises(ConfigError, match="a constitution needs principles"):
        check_principles(principles)
