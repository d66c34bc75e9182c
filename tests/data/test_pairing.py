"""Which of several ranked responses are compared, and what is left of a list that is learnt whole."""

from __future__ import annotations

import pytest

from lit_align.data.canonical import (
    FEW_FOR_TRIPLE,
    FEW_RESPONSES,
    IDENTICAL_PAIR,
    REPEATED_RESPONSE,
    TIED,
    UNDECIDED,
    CanonicalRow,
    Dropped,
)
from lit_align.data.pairing import (
    all_pairs,
    best_worst,
    listed,
    random_pairs,
    rejection_sampled,
    tournament_pairs,
    triples,
)

EIGHT = CanonicalRow(5, "Q?", list("abcdefgh"), scores=[3.0, 7.0, 1.0, 5.0, 2.0, 8.0, 4.0, 6.0], timestamp=2.0)


def preferences(row):
    return [(row.completions[better], row.completions[worse]) for better, worse in row.pairs]


@pytest.mark.parametrize("convert", [random_pairs, tournament_pairs, rejection_sampled])
def test_better_responses_are_chosen_and_scores_stay_with_theirs(convert):
    [row] = convert(EIGHT)
    known = dict(zip(EIGHT.completions, EIGHT.scores, strict=True))
    assert row.pairs
    assert row.scores == [known[text] for text in row.completions]
    assert row.margins == [known[better] - known[worse] for better, worse in preferences(row)]
    assert min(row.margins) > 0
    assert (row.timestamp, row.row, row.prompt) == (2.0, 5, "Q?")


@pytest.mark.parametrize("convert", [random_pairs, rejection_sampled])
def test_draws_follow_from_seed_and_id_alone(convert):
    [one], [again] = convert(EIGHT), convert(EIGHT._replace(prompt="Other?"))
    assert preferences(one) == preferences(again)
    named = [preferences(convert(EIGHT._replace(row=row, id="x"))[0]) for row in (1, 2)]
    assert named[0] == named[1]
    others = [preferences(convert(EIGHT, seed=seed)[0]) for seed in range(1, 6)]
    assert any(other != preferences(one) for other in others)
    assert any(preferences(convert(EIGHT._replace(row=row))[0]) != preferences(one) for row in range(6, 11))


def test_triples_are_the_best_the_second_best_and_the_worst():
    [row] = triples(EIGHT)
    assert (row.target, preferences(row), row.margins) == ("f", [("b", "c")], [6.0])
    [two] = triples(EIGHT._replace(completions=["a", "b"], scores=[1.0, 2.0]))
    assert two == Dropped(5, FEW_FOR_TRIPLE, "2")


def test_winners_meet_winners():
    [row] = tournament_pairs(EIGHT)
    first, then = {("b", "a"), ("d", "c"), ("f", "e"), ("h", "g")}, {("b", "d"), ("f", "h")}
    assert set(preferences(row)) == first | then | {("f", "b")}
    [odd] = tournament_pairs(EIGHT._replace(completions=list("abc"), scores=[1.0, 2.0, 3.0]))
    assert set(preferences(odd)) == {("b", "a"), ("c", "b")}


def test_a_tied_match_is_counted_and_the_first_goes_on():
    [row] = tournament_pairs(EIGHT._replace(completions=list("abcd"), scores=[2.0, 2.0, 3.0, 1.0]))
    assert preferences(row) == [("c", "d"), ("c", "a")]
    assert row.left_out == {TIED: 1}


def test_random_pairs_are_different_pairs_of_unequal_responses():
    assert len(random_pairs(EIGHT)[0].pairs) == 8
    assert len(random_pairs(EIGHT, num_pairs=3)[0].pairs) == 3
    [row] = random_pairs(EIGHT, num_pairs=100)
    assert sorted(preferences(row)) == sorted(preferences(all_pairs(EIGHT)[0]))
    [few] = random_pairs(CanonicalRow(1, "Q?", ["a", "b", "b", "c"], scores=[2.0, 2.0, 1.0, 1.0]), num_pairs=9)
    assert sorted(preferences(few)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert few.left_out == {}


def test_accepted_responses_are_paired_once():
    [row] = rejection_sampled(EIGHT, beta=100.0, num_samples=8)
    assert len(row.pairs) == 4
    assert sorted(text for pair in preferences(row) for text in pair) == EIGHT.completions
    [three] = rejection_sampled(EIGHT, beta=1e-9, num_samples=3)
    assert len(three.pairs) == 1
    assert set(preferences(three)[0]) < {"f", "b", "h"}


def test_tied_accepted_responses_are_counted():
    row = EIGHT._replace(scores=[1.0] * 7 + [2.0])
    [converted] = rejection_sampled(row, beta=100.0)
    assert [better for better, _ in preferences(converted)] == ["h"]
    assert converted.left_out == {TIED: 3}


@pytest.mark.parametrize("convert", [random_pairs, tournament_pairs, rejection_sampled])
def test_rows_without_any_preference_are_dropped(convert):
    assert convert(EIGHT._replace(scores=[1.0] * 8))[0].reason == UNDECIDED
    same = EIGHT._replace(completions=["a", " a"], scores=[1.0, 2.0])
    assert isinstance(convert(same)[0], Dropped)


def test_the_pair_of_ilr_dpo_is_that_of_the_best_and_the_worst():
    """Vector `ilr_dpo/v2_pair_selection`: argmax and argmin, the first on ties, nothing where all are equal."""
    rewards, pairs = [[0.2, 0.9, 0.5], [0.3, 0.3, 0.3], [1.0, -1.0, 0.0]], [(1, 0), None, (0, 1)]
    for scores, pair in zip(rewards, pairs, strict=True):
        [row] = best_worst(CanonicalRow(1, "Q?", ["0", "1", "2"], scores=scores))
        found = None if isinstance(row, Dropped) else tuple(int(text) for text in preferences(row)[0])
        assert found == pair


def test_a_list_keeps_the_first_of_equal_responses():
    row = CanonicalRow(1, "Q?", ["a", "b", " a", "c"], scores=[1.0, 2.0, 3.0, 1.0], left_out={IDENTICAL_PAIR: 1})
    kept = listed(row)
    assert (kept.completions, kept.scores) == (["a", "b", "c"], [1.0, 2.0, 1.0])
    assert kept.left_out == {IDENTICAL_PAIR: 1, REPEATED_RESPONSE: 1}
    assert listed(EIGHT) == EIGHT


def test_lists_without_a_preference_are_dropped():
    assert listed(EIGHT._replace(scores=[1.0] * 8)).reason == UNDECIDED
    assert listed(CanonicalRow(1, "Q?", ["a", "a "], scores=[1.0, 2.0])).reason == FEW_RESPONSES
    assert listed(CanonicalRow(1, "Q?", ["a", "b", "a"], scores=[1.0, 1.0, 2.0])).reason == UNDECIDED
