"""What every judge does: checks its input, counts what it could not judge, compares by scores."""

from __future__ import annotations

import pytest

import lit_align.judges
from lit_align.core.errors import DataError
from lit_align.judges import JudgeVote, MajorityVote
from lit_align.judges.base import Judged, PointwiseJudge, Verdict
from tests.judges.fakes import Lengths


def test_what_cannot_be_judged_is_counted():
    judge = Lengths()
    assert judge.score(["p", "p", "p"], ["ab", "", "c"]) == [
        (2.0, "its length"),
        (None, "empty: nothing"),
        (1.0, "its length"),
    ]
    assert judge.counts.to_dict() == {"asked": 3, "judged": 2, "unjudged": {"empty": 1}, "events": {}}
    judge.score(["p"], [""])
    assert judge.counts.unjudged == {"empty": 2}


def test_no_items_are_no_call():
    assert Lengths().score([], []) == []
    assert Lengths().compare([], [], []) == []


def test_scores_compare():
    verdicts = Lengths().compare(["p"] * 4, ["ab", "a", "a", ""], ["a", "ab", "b", "a"])
    assert [verdict.probability for verdict in verdicts] == [1.0, 0.0, 0.5, None]
    assert verdicts[0].reason == "scores 2 and 1"
    assert verdicts[3].reason == "empty: first response, nothing"


def test_columns_go_with_both_responses():
    class Sees(PointwiseJudge):
        def score(self, prompts, completions, **columns):
            return [Judged(float(value)) for value in columns["worth"]]

    assert Sees().compare(["p", "q"], ["a", "b"], ["c", "d"], worth=[1, 2]) == [
        Verdict(0.5, "scores 1 and 1"),
        Verdict(0.5, "scores 2 and 2"),
    ]


@pytest.mark.parametrize(
    ("arguments", "columns", "field"),
    [
        ((["p"], ["a", "b"]), {}, "completions"),
        ((["p"], ["a"]), {"ground_truth": []}, "ground_truth"),
        ((["p"], [None]), {}, "completions"),
    ],
)
def test_columns_that_do_not_fit(arguments, columns, field):
    with pytest.raises(DataError) as error:
        Lengths().score(*arguments, **columns)
    assert error.value.field == field


def test_a_call_may_be_split_unless_a_part_needs_it_whole():
    assert Lengths().is_divisible()
    assert not MajorityVote().is_divisible()
    assert not JudgeVote([Lengths(), MajorityVote()]).is_divisible()


def test_public_names_load():
    for name in lit_align.judges.__all__:
        assert getattr(lit_align.judges, name).__module__.startswith("lit_align.judges.")
    with pytest.raises(AttributeError, match="it has ExactMatch"):
        _ = lit_align.judges.NoSuchJudge
