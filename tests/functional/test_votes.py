"""Majorities of answers."""

from __future__ import annotations

import pytest

from lit_align.functional.votes import majority


def test_a_vote():
    vote = majority([42, 42, 7, None, 42, 7, 3])
    assert vote.winner == 42
    assert vote.share == pytest.approx(3 / 7), "of all samples, those without an answer included"
    assert vote.rewards == [1, 1, 0, 0, 1, 0, 0]


def test_of_equal_counts_the_first_wins():
    assert majority(["5", "6", "6", "5"]).winner == "5"


@pytest.mark.parametrize("answers", [[], [None, None]])
def test_without_answers_there_is_no_winner(answers):
    assert majority(answers) == (None, 0.0, [0.0] * len(answers))
