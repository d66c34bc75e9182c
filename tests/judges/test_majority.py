"""Majorities as judges."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError
from lit_align.judges import JudgeVote, MajorityVote
from lit_align.judges.base import PairwiseJudge, Verdict
from tests.judges.fakes import Lengths


class TestMajorityVote:
    def test_samples_of_a_prompt_vote(self):
        answers = ["42", "42.0", "7", "I give up", "42", "7", "3"]
        judge = MajorityVote()
        judged = judge.score(["p"] * 7, answers)
        assert [one.score for one in judged] == [1, 1, 0, 0, 1, 0, 0]
        assert judge.facts() == {"mean_majority_share": pytest.approx(3 / 7)}

    def test_prompts_vote_by_themselves(self):
        turn = [{"role": "user", "content": "p"}]
        judged = MajorityVote().score(["p", turn, "p", turn, "p", turn], ["1", "2", "1", "2", "2", "1"])
        assert [one.score for one in judged] == [1, 1, 1, 1, 0, 0]

    def test_without_answers_there_is_no_label(self):
        judge = MajorityVote()
        judged = judge.score(["p", "p", "q"], ["no", "idea", "3"])
        assert [one.score for one in judged] == [None] * 3
        assert judge.counts.unjudged == {
            "no sample of this prompt has an answer": 2,
            "too few samples of this prompt": 1,
        }


class Says(PairwiseJudge):
    def __init__(self, *chances):
        self.chances = chances

    def compare(self, prompts, firsts, seconds, **columns):
        return [Verdict(chance, "so") for chance in self.chances]


class TestJudgeVote:
    def vote(self, *judges, **settings):
        number = len(judges[0].chances)
        return JudgeVote(list(judges), **settings).compare(["p"] * number, ["a"] * number, ["b"] * number)

    def test_the_majority_decides(self):
        verdicts = self.vote(Says(0.9, 0.1, 0.5), Says(0.6, 0.4, 0.9), Says(0.2, 0.5, 0.1))
        assert [verdict.probability for verdict in verdicts] == [1.0, 0.0, 0.5]
        assert verdicts[0].reason == "2 for the first, 1 for the second, 0 undecided"

    def test_those_who_cannot_tell_do_not_vote(self):
        verdicts = self.vote(Says(None, None), Says(0.6, None), Says(0.7, 0.9))
        assert [verdict.probability for verdict in verdicts] == [1.0, None]
        assert self.vote(Says(None, None), Says(0.6, None), Says(0.7, 0.9), least_valid=1)[1].probability == 1.0

    def test_pointwise_judges_vote_too(self):
        verdicts = JudgeVote([Lengths(), Lengths()]).compare(["p"], ["ab"], ["a"])
        assert verdicts[0].probability == 1.0

    def test_one_judge_is_no_vote(self):
        with pytest.raises(ConfigError, match="two judges"):
            JudgeVote([Lengths()])
