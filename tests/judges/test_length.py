"""Judges whose scores are freed of length."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError
from lit_align.judges import LengthNormalised, LengthPenalised, RewardModelJudge
from lit_align.judges.base import CountingPointwise, Judged
from tests.judges.fakes import Lengths


class Column(CountingPointwise):
    """Scores as a column says."""

    def _score(self, prompts, completions, columns):
        return [Judged(score, "") for score in columns["value"]]


def scores(judge, completions, value):
    return [one.score for one in judge.score(["p"] * len(completions), completions, value=value)]


def test_scores_per_character():
    judge = LengthNormalised(Column(), alpha=5, negative="raise", unit="characters")
    texts = ["x" * 10, "x" * 50, "x" * 25]
    assert scores(judge, texts, [2.0, -1.0, 1.5]) == pytest.approx([2 / 15, -1 / 55, 0.05])


def test_negative_scores_are_shifted_first():
    judge = LengthNormalised(Column(), alpha=1, unit="words")
    assert scores(judge, ["a", "a b c", "a"], [-1.0, -1.0, 1.0]) == [0.0, 0.0, 1.0]
    assert scores(judge, ["a"], [1.0]) == [1.0], "the least score that was seen stays"
    assert not judge.is_divisible()
    fixed = LengthNormalised(Column(), alpha=1, minimum=0.0, unit="words")
    assert scores(fixed, ["a", "a"], [-1.0, 1.0]) == [-0.5, 0.5]
    assert fixed.counts.events == {"score below the minimum": 1}
    assert fixed.is_divisible()


def test_a_price_of_length():
    judge = LengthPenalised(Column(), target=20, weight=0.01, unit="characters")
    texts = ["x" * 10, "x" * 50, "x" * 25]
    assert scores(judge, texts, [2.0, -1.0, 1.5]) == pytest.approx([1.9, -1.3, 1.45])
    assert scores(LengthPenalised(Column(), 20, 0.01, "over", "characters"), texts[:2], [0, 0]) == pytest.approx(
        [0, -0.3]
    )


def test_tokens_are_those_of_the_judges_model(reward_dir):
    inner = RewardModelJudge(reward_dir, dtype="float64")
    raw, priced = (judge.score(["p"], ["\u00fc!"])[0] for judge in (inner, LengthPenalised(inner, 0, 1.0)))
    assert raw.score - priced.score == pytest.approx(3.0), "a byte is a token"
    assert "3 tokens" in priced.reason


def test_or_of_another_tokenizer(tiny_model_dir):
    judge = LengthPenalised(Column(), 0, 1.0, tokenizer=tiny_model_dir)
    assert scores(judge, ["abcd"], [0.0]) == [-4.0]


def test_without_a_tokenizer_there_are_no_tokens():
    with pytest.raises(ConfigError, match="nothing says what a token is"):
        LengthPenalised(Lengths(), 10)


def test_what_has_no_score_stays_without():
    judge = LengthNormalised(Lengths(), unit="words", negative="raise")
    assert [one.score for one in judge.score(["p", "p"], ["", "ab"])] == [None, 1.0]
    assert [one.score for one in judge.score(["p"], [""])] == [None]
    assert judge.counts.unjudged == {"empty": 2}
