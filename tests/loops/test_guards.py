"""Guards: each alarm just beyond its limit and not just before it, its words, and when a loop should stop."""

from __future__ import annotations

import math

import pytest

from lit_align.core.errors import ConfigError
from lit_align.loops.guards import Limits, RoundStats, check_round, should_stop
from lit_align.loops.pairs import IDENTICAL, TIED, Answer, Chosen
from lit_align.loops.round_stats import measure_round

FIRST = RoundStats(
    round=1,
    step=0,
    candidates=1000,
    mean_tokens=100.0,
    distinct_2=0.5,
    repetition=0.05,
    score=1.0,
    score_sd=1.0,
    held_out_score=2.0,
    held_out_error=0.03,
    pairs=400,
    longer_wins=0.5,
)


def second(**figures):
    return FIRST._replace(round=2, step=150, **figures)


def names(*rounds, **limits):
    return [alarm.name for alarm in check_round([FIRST, *rounds], Limits(**limits))]


def test_a_good_run_is_quiet():
    fine = second(score=1.5, held_out_score=2.2, mean_tokens=110.0)
    assert check_round([FIRST, fine]) == check_round([FIRST]) == check_round([]) == []
    assert should_stop([FIRST, fine]) is should_stop([FIRST]) is should_stop([]) is None


@pytest.mark.parametrize(
    ("name", "quiet", "loud"),
    [
        ("length", {"mean_tokens": 129.0}, {"mean_tokens": 131.0}),
        ("length", {"mean_tokens": 78.0}, {"mean_tokens": 76.0}),
        ("collapse", {"distinct_2": 0.41}, {"distinct_2": 0.39}),
        ("repetition", {"repetition": 0.14}, {"repetition": 0.16}),
        ("longer_wins", {"longer_wins": 0.64}, {"longer_wins": 0.66}),
        ("longer_wins", {"longer_wins": 0.36}, {"longer_wins": 0.34}),
        ("longer_wins", {"longer_wins": 0.74, "pairs": 16}, {"longer_wins": 0.76, "pairs": 16}),
        ("unfinished", {"unfinished": 0.05}, {"unfinished": 0.06}),
        ("empty", {"empty": 50}, {"empty": 51}),
        ("ties", {"tied_or_unscored": 0.3}, {"tied_or_unscored": 0.31}),
        # 2 * sqrt(0.03^2 + 0.04^2) = 0.1
        (
            "held_out",
            {"held_out_score": 1.91, "held_out_error": 0.04},
            {"held_out_score": 1.89, "held_out_error": 0.04},
        ),
        (
            "reward_hacking",
            {"held_out_score": 1.91, "held_out_error": 0.04, "score": 1.1},
            {"held_out_score": 1.89, "held_out_error": 0.04, "score": 1.1},
        ),
    ],
)
def test_an_alarm_begins_at_its_limit(name, quiet, loud):
    assert names(second(**quiet)) == []
    assert names(second(**loud)) == [f"loop/{name}"]


def test_what_is_not_known_raises_no_alarm():
    unknown = RoundStats(round=2, step=150, candidates=0)
    assert names(unknown) == []
    assert check_round([unknown._replace(round=1), second()]) == []
    assert names(second(held_out_score=0.0, held_out_error=None)) == []


def test_the_words_say_what_was_seen():
    (alarm,) = check_round([FIRST, second(score=1.7, held_out_score=1.4)])
    assert alarm.step == 150
    assert "risen from 1 to 1.7" in alarm.words
    assert "fallen from 2 to 1.4 (standard error of the difference 0.042)" in alarm.words
    assert "round 1" in alarm.advice
    (alarm,) = check_round([FIRST, second(mean_tokens=150.0)])
    assert "longer and longer: 100.0 tokens on average in round 1, 150.0 in round 2 (1.50 times as many)" in alarm.words
    (alarm,) = check_round([FIRST, second(distinct_2=0.25)])
    assert "25 % of their pairs of words" in alarm.words
    assert "50 % were in round 1 (50 % fewer)" in alarm.words


def test_a_slow_fall_is_measured_from_the_best_round():
    """No round is two standard errors below the one before."""
    falling = [second(held_out_score=2.0 - 0.05 * fall)._replace(round=1 + fall) for fall in range(1, 4)]
    assert names(*falling[:1]) == []
    assert names(*falling) == ["loop/held_out"]


def test_limits_can_be_changed():
    assert names(second(mean_tokens=131.0), length=1.4) == []
    assert names(second(mean_tokens=120.0), length=1.1) == ["loop/length"]


@pytest.mark.parametrize(
    ("quiet", "loud", "words"),
    [
        ({"mean_tokens": 190.0}, {"mean_tokens": 210.0}, "2.10 times as long as in round 1"),
        ({"mean_tokens": 52.0}, {"mean_tokens": 48.0}, "0.48 times as long as in round 1"),
        ({"unfinished": 0.25}, {"unfinished": 0.26}, "26 % of the answers were cut"),
        ({"tied_or_unscored": 0.8}, {"tied_or_unscored": 0.81}, "for 81 % the judge does not say"),
        ({"identical": 0.8}, {"identical": 0.81}, "little is left to learn"),
        ({"pairs": 1}, {"pairs": 0}, "no row is left"),
        ({"pairs": None}, {"pairs": 0}, "no row is left"),
        ({"held_out_score": 1.95}, {"held_out_score": 1.8}, "in the last round"),
    ],
)
def test_when_to_stop(quiet, loud, words):
    assert should_stop([FIRST, second(**quiet)]) is None
    stop = should_stop([FIRST, second(**loud)])
    assert (stop.step, stop.name) == (150, "loop/stop")
    assert words in stop.words
    assert stop.words.startswith("Round 2: ")


def test_patience_with_the_held_out_judge():
    rounds = [FIRST, second(held_out_score=1.8), second(held_out_score=1.7)._replace(round=3)]
    patient = Limits(patience=2)
    assert should_stop(rounds[:2], patient) is None
    assert "in the last 2 rounds" in should_stop(rounds, patient).words
    recovered = [
        *rounds[:2],
        second(held_out_score=2.0)._replace(round=3),
        second(held_out_score=1.8)._replace(round=4),
    ]
    assert should_stop(recovered, patient) is None


@pytest.mark.parametrize(
    "limits",
    [{"length": 0.9}, {"unfinished": 1.2}, {"diversity": -0.1}, {"patience": 0}, {"held_out_errors": math.nan}],
)
def test_limits_out_of_range(limits):
    with pytest.raises(ConfigError, match=next(iter(limits))):
        Limits(**limits)


class TestMeasuring:
    answers = (
        Answer("the cat sat", 1.0, 4, True),
        Answer("the cat ran", 2.0, 6, True),
        Answer(" ", None, 1, True),
        Answer("and so on and", float("nan"), 9, False),
    )

    def test_the_figures(self):
        pairs = [Chosen(self.answers[1], self.answers[0])]
        stats = measure_round(3, 40, self.answers, pairs, {TIED: 1, IDENTICAL: 3}, [0.0, 1.0, 2.0])
        assert stats == RoundStats(
            round=3,
            step=40,
            candidates=4,
            empty=1,
            unfinished=0.25,
            mean_tokens=5.0,
            distinct_2=6 / 7,
            repetition=0.0,
            score=1.5,
            score_sd=pytest.approx(math.sqrt(0.5)),
            tied_or_unscored=0.5,
            held_out_score=1.0,
            held_out_error=pytest.approx(1 / math.sqrt(3)),
            pairs=1,
            longer_wins=1.0,
            identical=0.75,
        )

    def test_a_loop_without_a_judge(self):
        stats = measure_round(1, 0, self.answers, [], scored=False)
        assert (stats.tied_or_unscored, stats.pairs, stats.longer_wins) == (0.0, 0, None)

    def test_a_loop_without_pairs(self):
        assert measure_round(1, 0, self.answers, rows=2).pairs == 2
        assert measure_round(1, 0, self.answers).pairs is None

    def test_ties_of_all_pairs(self):
        assert measure_round(1, 0, self.answers[:2], [], {TIED: 5}).tied_or_unscored == 1.0

    def test_nothing_at_all(self):
        stats = measure_round(1, 0, [])
        assert stats.candidates == 0
        assert stats.mean_tokens is None
