"""Facts of judges, in words."""

from __future__ import annotations

from lit_align.evaluation.judge_facts import fact_rows


def test_counts_are_named_and_what_did_not_happen_is_left_out():
    counts = {"asked": 20, "judged": 20, "unjudged": {}, "events": {"cut to the limits on length": 0}}
    assert fact_rows({"rm": {"counts": counts}}) == [["rm", "responses or pairs that it was asked about", 20]]
    counts = counts | {"judged": 18, "unjudged": {"no verdict": 2}, "events": {"the two orders disagree": 3}}
    assert fact_rows({"rm": {"counts": counts}})[1:] == [
        ["rm", "of these judged", 18],
        ["rm", "the two orders disagree", 3],
    ]


def test_other_facts_are_kept_even_where_they_are_zero():
    facts = {"position_bias": {"pairs": 0, "first_place": None}, "mean_order_gap": 0.0, "votes": {"of_three": 2}}
    assert [row[1:] for row in fact_rows({"llm": facts})] == [
        ["pairs judged in both orders", 0],
        ["mean gap between the probabilities of the two orders", 0.0],
        ["votes: of three", 2],
    ]
    assert fact_rows({"odd": {"counts": 3}}) == [["odd", "counts", 3]]
