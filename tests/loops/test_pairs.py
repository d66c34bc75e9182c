"""Pairs from scored answers: the numbers of the specification, each rule, and that all that is left out is counted."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.pairs import (
    CLOSE,
    IDENTICAL,
    LONG,
    NOT_FINITE,
    REPEATED,
    SHORT,
    TIED,
    TOO_FEW,
    UNFINISHED,
    UNSCORED,
    Answer,
    AnswerFilter,
    Chosen,
    Pairing,
    best_answer,
    human_vs_own,
    top_share,
)

# The vector "iterative_pair_selection".
REWARDS = [0.3, 1.2, -0.5, 1.2, 0.0]
LENGTHS = [30, 120, 40, 60, 10]


def answers(scores, lengths=None, texts=None):
    lengths = lengths or [5] * len(scores)
    texts = texts or [f"answer {place}" for place in range(len(scores))]
    rows = zip(texts, scores, lengths, strict=True)
    return [Answer(text, score, tokens, True, sample) for sample, (text, score, tokens) in enumerate(rows)]


def samples(pairs):
    return [(pair.chosen.sample, pair.rejected.sample) for pair in pairs]


def made(rule, scores=REWARDS, **settings):
    return samples(Pairing(rule, **settings).pairs("a prompt", answers(scores, LENGTHS[: len(scores)])))


def test_best_and_worst():
    assert made("best_worst") == [(1, 2)]


def test_a_price_of_length_chooses_other_ends():
    assert made("best_worst", length_price=0.01) == [(3, 2)]


def test_vectors_are_those_of_the_shared_file(shared_dir):
    vectors = {row["id"]: row for row in json.loads((shared_dir / "vectors/onpolicy.json").read_text())}
    selection, raft = vectors["iterative_pair_selection"], vectors["raft"]
    assert (selection["inputs"]["rewards"], selection["inputs"]["lengths"]) == (REWARDS, LENGTHS)
    assert [tuple(selection["expected"]["max_min"])] == made("best_worst")
    assert [tuple(selection["expected"]["max_min_with_length_penalty_indices"])] == made(
        "best_worst", length_price=selection["hyperparameters"]["length_penalty"]
    )
    assert raft["inputs"]["rewards_prompts_x_K"] == RAFT
    best = vectors["best_of_n"]
    assert best["inputs"]["reward_samples"] == SAMPLES
    assert {int(n): value for n, value in best["expected"]["expected_best_of_n_unbiased"].items()} == EXPECTED_BEST


def test_equal_scores_make_no_pair():
    pairing = Pairing()
    assert pairing.pairs("p", answers([1.0, 1.0, 1.0])) == []
    assert pairing.counts == {TIED: 1}
    assert made("best_second") == [], "the two best are equal"


def test_scores_that_only_the_price_makes_equal_make_no_pair():
    pairing = Pairing(length_price=0.5)
    assert pairing.pairs("p", answers([2.0, 1.0], [4, 2])) == []
    assert pairing.counts == {TIED: 1}


def test_scores_that_only_the_price_makes_different_make_no_pair():
    pairing = Pairing(length_price=0.5)
    assert pairing.pairs("p", answers([2.0, 2.0], [4, 2])) == []
    assert pairing.counts == {TIED: 1}


def test_best_and_second():
    assert made("best_second", [0.3, 1.2, -0.5, 0.7]) == [(1, 3)]


def test_each_with_the_next():
    assert made("adjacent", [0.3, 1.2, -0.5, 0.7]) == [(1, 3), (3, 0), (0, 2)]
    pairing = Pairing("adjacent")
    assert samples(pairing.pairs("p", answers(REWARDS))) == [(3, 0), (0, 4), (4, 2)]
    assert pairing.counts == {TIED: 1}


def test_all_pairs_with_a_margin():
    pairing = Pairing("all", min_margin=0.5)
    assert samples(pairing.pairs("p", answers([0.0, 1.0, 0.4]))) == [(1, 2), (1, 0)]
    assert pairing.counts == {CLOSE: 1}


def test_a_margin_as_large_as_asked_for_is_enough():
    assert made("best_worst", [0.0, 0.5], min_margin=0.5) == [(1, 0)]


def test_a_random_other_answer_is_the_same_each_time_and_any_of_them():
    every = answers([0.0, 3.0, 1.0, 2.0])
    pairing = Pairing("best_random", seed=4)
    drawn = [pairing.pairs(f"prompt {number}", every)[0] for number in range(300)]
    assert drawn == [Pairing("best_random", seed=4).pairs(f"prompt {n}", every[::-1])[0] for n in range(300)]
    assert drawn != [Pairing("best_random", seed=5).pairs(f"prompt {n}", every)[0] for n in range(300)]
    assert {pair.chosen.sample for pair in drawn} == {1}
    for sample in (0, 2, 3):
        assert 70 < sum(pair.rejected.sample == sample for pair in drawn) < 130


def test_the_order_of_rows_does_not_matter():
    every = answers([1.0, 3.0, 3.0, 1.0])
    for rule in ("best_worst", "adjacent", "all"):
        assert Pairing(rule).pairs("p", every) == Pairing(rule).pairs("p", random.Random(0).sample(every, 4))
    assert samples(Pairing().pairs("p", every)) == [(1, 0)], "of equal scores the lower sample"


class TestFilters:
    def test_each_reason_is_counted(self):
        pairing = Pairing(min_chars=3, max_chars=10)
        rows = [
            Answer("cut off", 9.0, 8, False, 0),
            Answer(" \n a ", 9.0, 8, True, 1),
            Answer("a" * 11, 9.0, 8, True, 2),
            Answer("no score", None, 8, True, 3),
            Answer("odd score", math.nan, 8, True, 4),
            Answer("good", 2.0, 8, True, 5),
            Answer("fair", 1.0, 8, True, 6),
        ]
        assert samples(pairing.pairs("p", rows)) == [(5, 6)]
        assert pairing.counts == dict.fromkeys([UNFINISHED, SHORT, LONG, UNSCORED, NOT_FINITE], 1)

    def test_unfinished_answers_may_stay(self):
        rows = [Answer("a", 1.0, 8, False, 0), Answer("b", 0.0, 8, False, 1)]
        assert samples(Pairing(keep_unfinished=True).pairs("p", rows)) == [(0, 1)]

    def test_the_same_text_is_one_answer_with_the_mean_score(self):
        pairing = Pairing()
        (pair,) = pairing.pairs("p", answers([3.0, 1.5, 0.0, 2.0], texts=["same", "other", "same ", "third"]))
        assert (pair.chosen.sample, pair.chosen.score) == (3, 2.0)
        # The mean of 3 and 0 ties with 1.5: of the two the lower sample is the worst.
        assert (pair.rejected.sample, pair.rejected.score) == (0, 1.5)
        assert pairing.counts == {REPEATED: 1}

    def test_a_mean_of_equal_scores_is_that_score(self):
        for number in range(2, 40):
            rows = answers([0.1] * number + [0.1], texts=["same"] * number + ["other"])
            assert Pairing().pairs("p", rows) == [], number

    def test_too_few_are_left(self):
        pairing = Pairing(min_valid=3)
        assert pairing.pairs("p", answers([1.0, 2.0, 3.0], texts=["a", "a", "b"])) == []
        assert pairing.pairs("p", []) == []
        assert pairing.counts == {REPEATED: 1, TOO_FEW: 2}
        assert pairing.pairs("p", answers([1.0, 2.0, 3.0])) != []


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "max_min"},
        {"min_valid": 1},
        {"min_margin": -0.1},
        {"min_margin": math.nan},
        {"min_chars": -1},
        {"min_chars": 5, "max_chars": 4},
        {"max_chars": 0, "min_chars": 0},
        {"length_price": math.inf},
    ],
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(ConfigError):
        Pairing(**settings)


# The vector "raft".
RAFT = [[0.1, 0.9, 0.3], [2.0, -1.0, 2.0], [-0.5, -0.2, -0.3]]
# The vector "best_of_n".
SAMPLES = [-0.3, 0.2, 0.9, 1.5, 2.1]
EXPECTED_BEST = {1: 0.88, 2: 1.49, 3: 1.8, 5: 2.1}


class TestBest:
    def test_the_best_of_each_prompt(self):
        best = [best_answer(answers(scores)) for scores in RAFT]
        assert [answer.sample for answer in best] == [1, 0, 1]
        assert sum(answer.score for answer in best) / 3 == pytest.approx(0.9)

    @pytest.mark.parametrize(("n", "expected"), EXPECTED_BEST.items())
    def test_the_best_of_n_on_average(self, n, expected):
        best = [best_answer(some).score for some in combinations(answers(SAMPLES), n)]
        assert sum(best) / len(best) == pytest.approx(expected)

    def test_of_equal_ones_the_lowest_sample(self):
        assert best_answer(answers([2.0, 2.0])[::-1]).sample == 0

    def test_the_best_third_of_all(self):
        top = top_share([answers(scores) for scores in RAFT], 1 / 3)
        assert [3 * place + answer.sample for place, answer in top] == [3, 5, 1]

    def test_of_equal_ones_the_earlier_prompt(self):
        groups = [answers([0.0, 1.0]), answers([1.0, 1.0])]
        assert [(place, answer.sample) for place, answer in top_share(groups, 0.75)] == [(0, 1), (1, 0), (1, 1)]
        assert [(place, answer.sample) for place, answer in top_share(groups, 0.5)] == [(0, 1), (1, 0)]

    def test_never_none_and_all_where_asked_for(self):
        groups = [answers(scores) for scores in RAFT]
        assert len(top_share(groups, 0.01)) == 1
        assert len(top_share(groups, 1.0)) == 9
        assert top_share([], 0.5) == []

    def test_nothing_to_choose_from(self):
        assert best_answer([]) is None

    @pytest.mark.parametrize("score", [None, math.nan, math.inf])
    def test_an_answer_without_a_score_is_refused(self, score):
        with pytest.raises(DataError, match="AnswerFilter"):
            best_answer(answers([1.0, score]))

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
    def test_a_share_out_of_range(self, share):
        with pytest.raises(ConfigError):
            top_share([answers([1.0])], share)


def test_a_persons_answer_against_own_ones():
    human = Answer("Yes.", None, 3, True)
    own = [
        Answer("No.", None, 3, True, 0),
        Answer("Yes. ", None, 3, True, 1),
        Answer("No.", None, 3, True, 2),
        Answer("Well", None, 3, False, 3),
    ]
    answer_filter = AnswerFilter(scored=False)
    assert human_vs_own(human, own, answer_filter) == [Chosen(human, own[0])]
    assert answer_filter.counts == {IDENTICAL: 1, REPEATED: 1, UNFINISHED: 1}
