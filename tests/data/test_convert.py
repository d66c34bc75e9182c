from __future__ import annotations

from itertools import combinations

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.canonical import IDENTICAL_PAIR, TIED, UNDESIRABLE, CanonicalRow, Dropped
from lit_align.data.convert import (
    CONVERSIONS,
    check_arguments,
    conversions_between,
    find_conversion,
    good_bad_pairs,
    pairs_to_chosen,
    pairs_to_unpaired,
    ranked_to_best,
    ranked_to_scored,
    unpaired_to_desirable,
    unpaired_to_scored,
)
from lit_align.data.module import PreferenceDataModule
from lit_align.data.pairing import adjacent_pairs, all_pairs, best_worst
from tests.data.modules import write
from tests.data.reading import assistant, user

RANKED = CanonicalRow(5, "Q?", ["b", "d", "a", "c"], scores=[3.0, 1.0, 4.0, 2.0], id="x")
PAIR = CanonicalRow(3, "Q?", ["a", "b"], pairs=[(0, 1)], margin=2.0, margins=[2.0], reference_logps=[-1.0, -2.0])


def preferences(row: CanonicalRow) -> list[tuple[str, str]]:
    return [(row.completions[better], row.completions[worse]) for better, worse in row.pairs]


def test_best_worst():
    [row] = best_worst(RANKED)
    assert preferences(row) == [("a", "d")]
    assert (row.completions, row.scores) == (["d", "a"], [1.0, 4.0])
    assert (row.margin, row.margins, row.row, row.prompt, row.id) == (3.0, [3.0], 5, "Q?", "x")


def test_all_pairs_keep_each_response_once():
    [row] = all_pairs(RANKED)
    assert row.completions == RANKED.completions
    assert set(preferences(row)) == set(combinations("abcd", 2))
    assert row.margin is None
    assert row.margins == [row.scores[better] - row.scores[worse] for better, worse in row.pairs]
    assert min(row.margins) > 0


def test_adjacent_pairs():
    [row] = adjacent_pairs(RANKED)
    assert preferences(row) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert row.margins == [1.0, 1.0, 1.0]


def test_ties_are_skipped_and_counted():
    row = RANKED._replace(scores=[2.0, 2.0, 4.0, 1.0], left_out={"empty response": 1})
    [every] = all_pairs(row)
    assert set(preferences(every)) == {("a", "b"), ("a", "d"), ("a", "c"), ("b", "c"), ("d", "c")}
    assert every.left_out == {"empty response": 1, TIED: 1}
    [adjacent] = adjacent_pairs(row)
    assert preferences(adjacent) == [("a", "b"), ("d", "c")]
    assert adjacent.left_out[TIED] == 1
    [best] = best_worst(row._replace(scores=[4.0, 1.0, 4.0, 1.0]))
    assert preferences(best) == [("b", "d")]


def test_identical_responses_make_no_pair():
    [row] = all_pairs(CanonicalRow(1, "Q?", ["a", " a ", "b"], scores=[3.0, 2.0, 1.0]))
    assert preferences(row) == [("a", "b"), (" a ", "b")]
    assert row.left_out == {IDENTICAL_PAIR: 1}


def test_responses_without_a_pair_are_not_kept():
    [row] = adjacent_pairs(CanonicalRow(1, "Q?", ["a", "b", "c", "d"], scores=[2.0, 2.0, 2.0, 1.0]))
    assert row.completions == ["c", "d"]
    assert row.pairs == [(0, 1)]
    assert row.left_out == {TIED: 2}


@pytest.mark.parametrize("convert", [best_worst, all_pairs, adjacent_pairs])
def test_a_row_without_any_preference_is_dropped(convert):
    [row] = convert(RANKED._replace(scores=[1.0] * 4))
    assert isinstance(row, Dropped)
    assert (row.row, row.reason) == (5, "no response was preferred")


def test_ranks_and_scores_give_the_same_pairs():
    ranks = [-2.0, -4.0, -1.0, -3.0]
    [by_rank], [by_score] = all_pairs(RANKED._replace(scores=ranks)), all_pairs(RANKED)
    assert by_rank.pairs == by_score.pairs


def test_ranked_to_best():
    [row] = ranked_to_best(RANKED)
    assert (row.completions, row.scores, row.pairs, row.prompt) == (["a"], None, [], "Q?")
    [first] = ranked_to_best(RANKED._replace(scores=[1.0] * 4))
    assert first.completions == ["b"]


def test_pairs_to_unpaired():
    good, bad = pairs_to_unpaired(PAIR)
    assert (good.completions, good.label, good.reference_logps) == (["a"], True, [-1.0])
    assert (bad.completions, bad.label, bad.reference_logps) == (["b"], False, [-2.0])
    assert (good.margin, good.pairs, good.margins, bad.row) == (None, [], None, 3)


def test_pairs_to_unpaired_leaves_out_the_middle():
    [row] = all_pairs(RANKED)
    labels = {single.completions[0]: single.label for single in pairs_to_unpaired(row)}
    assert labels == {"a": True, "d": False}


def test_pairs_to_chosen():
    [row] = pairs_to_chosen(PAIR)
    assert (row.completions, row.label, row.pairs) == (["a"], None, [])
    [best] = pairs_to_chosen(all_pairs(RANKED)[0])
    assert best.completions == ["a"]


def test_good_bad_pairs():
    """GOOD:A is better than BAD:A, and BAD:B better than GOOD:B."""
    [row] = good_bad_pairs(PAIR._replace(weights=[0.5], safe=[True, False]))
    assert preferences(row) == [("GOOD:a", "BAD:a"), ("BAD:b", "GOOD:b")]
    assert row.weights == [0.5, 0.5]
    assert (row.margins, row.reference_logps, row.safe, row.scores) == (None, None, None, None)
    [row] = good_bad_pairs(all_pairs(RANKED)[0], good="+ ", bad="- ")
    assert len(row.pairs) == 12
    assert preferences(row)[:2] == [("+ a", "- a"), ("- b", "+ b")]


def test_turns_call_themselves_good_or_bad():
    talk = PAIR._replace(
        prompt=[user("Q?")], completions=[[assistant("a"), user("So?"), assistant("c")], [assistant("b")]]
    )
    [row] = good_bad_pairs(talk)
    assert row.completions[0] == [assistant("GOOD:a"), user("So?"), assistant("c")]
    assert row.completions[3] == [assistant("GOOD:b")]


def test_pairs_become_pairs_only_where_that_is_asked(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Q?", "chosen": "a", "rejected": "b"}])
    [example] = make(path).examples("train", DataKind.PAIRS)
    assert len(example.ids) == 2
    data = make(path, convert="good_bad_pairs", convert_args={"good": "I am good: "})
    [example] = data.examples("train", DataKind.PAIRS)
    assert len(example.ids) == 4
    assert data.tokenizer.decode(example.ids[0]) == "Q?I am good: a</s>"
    assert not data.reports["train"].notes


def test_unpaired_to_desirable():
    good = CanonicalRow(4, "Q?", ["a"], label=True)
    assert unpaired_to_desirable(good) == [good._replace(label=None)]
    assert unpaired_to_desirable(good._replace(label=False)) == [Dropped(4, UNDESIRABLE)]


def test_conversions_are_found_by_name():
    assert find_conversion("all_pairs", DataKind.RANKED).apply is all_pairs
    assert conversions_between(DataKind.PAIRS, DataKind.UNPAIRED) == ["pairs_to_unpaired"]
    assert conversions_between(DataKind.UNPAIRED, DataKind.PAIRS) == []
    for name, conversion in CONVERSIONS.items():
        assert conversion.apply.__name__ == name
    with pytest.raises(ConfigError, match="did you mean 'adjacent_pairs'"):
        find_conversion("adjacent_pair", DataKind.RANKED)
    with pytest.raises(ConfigError, match="leave data"):
        find_conversion("all_pairs", DataKind.PROMPTS)


def test_ranked_to_scored():
    rows = ranked_to_scored(RANKED._replace(left_out={"empty response": 1}))
    assert [(row.completions, row.scores) for row in rows] == [
        (["b"], [3.0]), (["d"], [1.0]), (["a"], [4.0]), (["c"], [2.0]),
    ]  # fmt: skip
    assert [row.left_out for row in rows] == [{"empty response": 1}, {}, {}, {}]
    assert len(ranked_to_scored(RANKED._replace(scores=[1.0] * 4))) == 4


def test_unpaired_to_scored():
    row = CanonicalRow(4, "Q?", ["a"], label=True)
    assert unpaired_to_scored(row) == [row._replace(label=None, scores=[1.0])]
    assert unpaired_to_scored(row._replace(label=False)) == [row._replace(label=None, scores=[0.0])]


def test_settings_of_conversions():
    conversion = CONVERSIONS["rejection_sampled"]
    assert conversion.settings() == {"beta": 0.5, "num_samples": 8, "seed": 0}
    [row] = conversion.bind({"num_samples": 2})(RANKED)
    assert len(row.pairs) == 1
    assert CONVERSIONS["best_worst"].bind({})(RANKED) == best_worst(RANKED)


@pytest.mark.parametrize(
    ("name", "arguments", "message", "fix"),
    [
        (
            "rejection_sampled",
            {"temperature": 1},
            "takes no setting 'temperature'",
            "known are: beta, num_samples, seed",
        ),
        ("best_worst", {"seed": 1}, "'best_worst' takes no setting 'seed'", "leave data.convert_args out"),
        ("rejection_sampled", {"beta": 0.0}, "out of range", "a number above 0"),
        ("rejection_sampled", {"beta": "0.5"}, "out of range", "a number above 0"),
        ("rejection_sampled", {"num_samples": 1}, "out of range", "a whole number of 2 or more"),
        ("random_pairs", {"num_pairs": 2.5}, "out of range", "a whole number of 0 or more"),
        ("random_pairs", {"seed": True}, "out of range", "a whole number"),
        ("good_bad_pairs", {"good": 1}, "no text", "a text in quotes"),
        ("good_bad_pairs", {"good": "BAD:"}, "are the same", "two different texts"),
        (None, {"seed": 1}, "no conversion", "random_pairs, rejection_sampled"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_before_anything_is_read(name, arguments, message, fix):
    with pytest.raises(ConfigError, match=message) as caught:
        check_arguments(name, arguments)
    assert fix in caught.value.fix
    with pytest.raises(ConfigError, match=message):
        PreferenceDataModule("no such file.jsonl", convert=name, convert_args=arguments)
