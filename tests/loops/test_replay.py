"""Replayed rows: the counts of the specification, which rows are drawn, and rows of several rounds, each once."""

from __future__ import annotations

import math

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.replay import (
    AGAIN,
    MISSING,
    NOT_DRAWN,
    OLD,
    SAME_PROMPT,
    SPARE,
    mix_rounds,
    replay,
    replay_counts,
    row_key,
)


def rows(numbers, source):
    return [{"prompt": f"prompt {number}", "chosen": f"{source} {number}", "rejected": "no"} for number in numbers]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, (5000, 5000)), (0.25, (6000, 2000)), (0.0, (6000, 0)), (0.9, (1000, 9000))],
)
def test_the_counts_of_the_specification(share, expected):
    assert replay_counts(10000, 6000, share) == expected


def test_counts_are_not_off_by_rounding():
    """0.6 * 2 / (1 - 0.6) and others are a little less than the whole number that they should be."""
    for tenths in range(1, 10):
        for made in range(1, 50):
            counts = replay_counts(10**6, made, tenths / 10)
            assert counts == (made, tenths * made // (10 - tenths))


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_out_of_range(share):
    with pytest.raises(ConfigError, match="replay"):
        replay_counts(10, 10, share)


def test_an_empty_seed_set_cannot_be_replayed():
    with pytest.raises(DataError, match="replay=0"):
        replay_counts(0, 10, 0.5)


class TestReplay:
    generated = rows(range(100), "own")
    offline = rows(range(100), "old")

    def test_half_and_half_of_the_same_prompts(self):
        mixed = replay(self.generated, self.offline, 0.5, 0, 1)
        own = [row["prompt"] for row in mixed.rows if row["chosen"].startswith("own")]
        old = [row["prompt"] for row in mixed.rows if row["chosen"].startswith("old")]
        assert (len(own), len(old), len({*own, *old})) == (50, 50, 100)
        assert mixed.counts == {NOT_DRAWN: 50, SAME_PROMPT: 50}
        assert [row["prompt"] for row in mixed.rows] == own + old
        assert own == sorted(own, key=lambda prompt: int(prompt.split()[1])), "in the order of the data"

    def test_the_draw_is_that_of_its_key(self):
        first = replay(self.generated, self.offline, 0.5, 0, 1)
        assert replay(self.generated, self.offline, 0.5, 0, 1) == first
        assert replay(self.generated, self.offline, 0.5, 0, 2).rows != first.rows

    def test_what_is_not_drawn_is_counted(self):
        mixed = replay(self.generated[:20], self.offline, 0.25, 0)
        assert len(mixed.rows) == 20 + 6
        assert mixed.counts == {SAME_PROMPT: 20, SPARE: 74}
        assert mixed.rows != replay(self.generated[:20], self.offline, 0.25, 1).rows, "a draw of its own"

    def test_too_few_other_prompts(self):
        # Three rows for each prompt, so that the prompts of half the rows are nearly all prompts.
        mixed = replay(self.generated[:4] * 3, self.offline[:4] * 3, 0.5, 0)
        own = sum(row["chosen"].startswith("own") for row in mixed.rows)
        assert own == 6
        assert mixed.counts[MISSING] == 6 - (len(mixed.rows) - own) > 0

    def test_no_replay(self):
        assert replay(self.generated, [], 0.0).rows == self.generated


FIRST = [
    {"prompt": "a", "chosen": "x", "rejected": "y", "round": 1},
    {"prompt": "b", "chosen": "x", "rejected": "y", "round": 1},
]
SECOND = [{"prompt": "a", "chosen": "x", "rejected": "z", "round": 2}]
THIRD = [{"prompt": "b", "chosen": "x", "rejected": "y", "round": 3, "margin": 2.0}]
ROUNDS = [FIRST, SECOND, THIRD]


class TestRounds:
    def test_the_last_alone(self):
        assert mix_rounds(ROUNDS, "none") == (THIRD, {OLD: 3})

    def test_the_one_before_too(self):
        assert mix_rounds(ROUNDS, "previous") == ([*SECOND, *THIRD], {OLD: 2})

    def test_all_and_of_equal_rows_the_later(self):
        assert mix_rounds(ROUNDS, "all") == ([FIRST[0], *SECOND, *THIRD], {AGAIN: 1})

    def test_the_first_round_has_none_before(self):
        for reuse in ("none", "previous", "all"):
            assert mix_rounds([FIRST], reuse) == (FIRST, {})
            assert mix_rounds([], reuse) == ([], {})

    def test_an_unknown_way(self):
        with pytest.raises(ConfigError, match="none, previous, all"):
            mix_rounds(ROUNDS, "some")

    def test_what_makes_rows_the_same(self):
        row = {"prompt": [{"role": "user", "content": "a"}], "completion": "x"}
        assert row_key(row) == row_key({**row, "score": 3, "round": 2})
        assert row_key(row) != row_key({**row, "completion": "y"})
        assert row_key(row) != row_key({"prompt": row["prompt"], "chosen": "x"})
