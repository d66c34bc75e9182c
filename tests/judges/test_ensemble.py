"""Several judges as one."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError
from lit_align.judges import RewardEnsemble
from lit_align.judges.base import Judged, PointwiseJudge
from tests.judges.fakes import Lengths

SCORES = [[2.0, 1.5, 3.5, 0.0], [1.8, 1.6, 0.2, 0.3], [2.2, 1.4, 1.9, -0.1]]


class Says(PointwiseJudge):
    released = False

    def __init__(self, *scores):
        self.scores = scores

    def score(self, prompts, completions, **columns):
        return [Judged(score, "" if score is not None else "hm") for score in self.scores]

    def release(self):
        self.released = True


def scores(**settings):
    judge = RewardEnsemble([Says(*row) for row in SCORES], **settings)
    return [judged.score for judged in judge.score(["p"] * 4, ["a"] * 4)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2.0, 1.5, 1.86666666667, 0.0666666666667]),
        ({"combine": "worst"}, [1.8, 1.4, 0.2, -0.1]),
        ({"combine": "uncertainty"}, [1.98666666667, 1.49666666667, 0.958888888889, 0.0522222222222]),
        ({"combine": "uncertainty", "ddof": 1}, [1.98, 1.495, 0.505, 0.045]),
        ({"combine": "lcb", "ddof": 1}, [1.9, 1.45, 1.0415404137, -0.0374166333066]),
        ({"combine": "worst", "standardise": [(0, 1), (0, 0.1), (2, 1)]}, [0.2, -0.6, -0.1, -2.1]),
    ],
)
def test_the_numbers_of_the_specification(settings, expected):
    assert scores(**settings) == pytest.approx(expected, abs=1e-9)


def test_a_member_that_cannot_tell_leaves_no_score():
    judge = RewardEnsemble([Says(1.0, 2.0), Says(1.0, None)])
    judged = judge.score(["p", "p"], ["a", "b"])
    assert [one.score for one in judged] == [1.0, None]
    assert judged[1].reason == "a member of the ensemble gave no score: judge 2, hm"
    assert judge.counts.unjudged == {"a member of the ensemble gave no score": 1}


def test_members_are_released():
    members = [Says(), Says()]
    RewardEnsemble(members).release()
    assert all(member.released for member in members)


@pytest.mark.parametrize(
    "settings",
    [
        {"judges": [Lengths()]},
        {"judges": [Lengths(), Lengths()], "standardise": [(0, 1)]},
        {"judges": [Lengths(), Lengths()], "standardise": [(0, 1), (0, 0)]},
        {"judges": [Lengths(), Lengths()], "ddof": 2},
        {"judges": [Lengths(), Lengths()], "weight": -1},
    ],
)
def test_settings_that_will_not_do(settings):
    with pytest.raises(ConfigError):
        RewardEnsemble(**settings)
