"""Metrics of reward models are what arithmetic says, ties and lengths included."""

from __future__ import annotations

import numpy as np
import pytest

from lit_align.evaluation.reward_metrics import (
    accuracy,
    by_column,
    by_length_sign,
    by_quantile,
    columns_of,
    length_baseline,
    pearson,
    rewards,
    spearman,
)
from lit_align.evaluation.score_files import Pair
from tests.evaluation.test_score_files import record

# The numbers of the specification's example.
CHOSEN, REJECTED = [1.5, -0.2, 0.7, 3.0], [0.5, 0.3, 0.7, -1.0]


def pairs_of(chosen, rejected, lengths=None, ids=None, metas=None) -> list[Pair]:
    lengths = lengths or [(3, 3)] * len(chosen)
    ids = ids or [str(index) for index in range(len(chosen))]
    metas = metas or [{}] * len(chosen)
    return [
        Pair(
            record(id_, "chosen", one, len_tokens=mine, meta=meta),
            record(id_, "rejected", other, len_tokens=theirs, meta=meta),
        )
        for one, other, (mine, theirs), id_, meta in zip(chosen, rejected, lengths, ids, metas, strict=True)
    ]


def test_the_example_of_the_specification():
    columns = columns_of(pairs_of(CHOSEN, REJECTED))
    right, scores = accuracy(columns), rewards(columns)
    assert (right.strict.mean, right.half.mean, right.ties, right.pairs) == (0.5, 0.625, 1, 4)
    assert scores.mean == pytest.approx(0.6875, abs=1e-9)
    assert scores.std == pytest.approx(1.1849502702, abs=1e-9)
    assert scores.margin.mean == pytest.approx(1.125, abs=1e-9)
    assert right.strict.low <= 0.5 <= right.strict.high


def test_accuracy_of_some_pairs():
    columns = columns_of(pairs_of(CHOSEN, REJECTED))
    assert accuracy(columns, np.array([True, True, False, False])).strict.mean == 0.5
    assert accuracy(columns, np.array([True, False, False, True])).strict == (1.0, 1.0, 1.0)


def test_pairs_of_one_row_are_drawn_together():
    chosen, rejected = [1.0] * 30 + [0.0] * 30, [0.5] * 60
    alone = accuracy(columns_of(pairs_of(chosen, rejected)))
    together = accuracy(columns_of(pairs_of(chosen, rejected, ids=[str(index // 10) for index in range(60)])))
    assert alone.strict.mean == together.strict.mean == 0.5
    assert together.strict.half_width > 2 * alone.strict.half_width


def test_the_rule_that_sees_only_lengths():
    lengths = [(9, 1), (9, 1), (9, 1), (1, 9), (5, 5)]
    columns = columns_of(pairs_of([1, 1, 1, 1, 1], [0, 0, 2, 0, 1], lengths))
    rule = length_baseline(columns)
    assert (rule.longer, rule.shorter) == pytest.approx((0.7, 0.3))
    assert (rule.best, rule.rule) == (pytest.approx(0.7), "prefer the longer")
    assert rule.gain.mean == pytest.approx(0.7 - 0.7)
    turned = length_baseline(columns_of(pairs_of([1] * 5, [0] * 5, [(b, a) for a, b in lengths])))
    assert (turned.rule, turned.best) == ("prefer the shorter", pytest.approx(0.7))
    assert turned.gain.mean == pytest.approx(0.3)


def test_a_model_that_only_sees_lengths_gains_nothing():
    generator = np.random.default_rng(0)
    lengths = [tuple(pair) for pair in generator.integers(1, 50, size=(200, 2)).tolist()]
    columns = columns_of(pairs_of([float(a) for a, _ in lengths], [float(b) for _, b in lengths], lengths))
    gain = length_baseline(columns).gain
    rule = max((columns.chosen_length > columns.rejected_length).mean(), 0)
    assert gain.mean == 0 if rule >= 0.5 else gain.mean < 0


def test_lengths_are_characters_where_tokens_are_not_known():
    pairs = pairs_of([1.0], [0.0])
    assert columns_of(pairs).unit == "tokens"
    assert columns_of([Pair(pairs[0].chosen, pairs[0].rejected._replace(len_tokens=None))]).unit == "characters"


def test_groups_by_length():
    columns = columns_of(pairs_of([1, 1, 1, 1], [0, 0, 0, 0], [(5, 1), (1, 5), (2, 2), (9, 1)]))
    masks = by_length_sign(columns)
    assert {name: mask.sum() for name, mask in masks.items()} == {
        "chosen longer": 2,
        "equal length": 1,
        "chosen shorter": 1,
    }


def test_groups_by_quantile_hold_every_pair_once():
    values = np.array([0.0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
    masks = by_quantile(values)
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    assert list(masks) == ["0 to below 1.6", "1.6 to below 3.2", "3.2 to below 4.8", "4.8 to 6"] or len(masks) <= 5
    assert list(by_quantile(np.ones(3))) == ["1"]
    even = by_quantile(np.arange(100.0))
    assert [int(mask.sum()) for mask in even.values()] == [20] * 5


def test_groups_by_a_column():
    metas = [{"source": "web"}, {"source": "book"}, {}, {"source": "web"}]
    masks = by_column(pairs_of([1] * 4, [0] * 4, metas=metas), "source")
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "book": [False, True, False, False],
        "web": [True, False, False, True],
        "not stated": [False, False, True, False],
    }
    assert by_column(pairs_of([1], [0]), "source") == {}
    few = by_column(pairs_of([1] * 3, [0] * 3, metas=[{"margin": m} for m in (3, 1, 3)]), "margin")
    assert list(few) == ["1", "3"]
    many = by_column(pairs_of([1] * 20, [0] * 20, metas=[{"margin": m / 7} for m in range(20)]), "margin")
    assert len(many) == 5
    assert (np.sum(list(many.values()), axis=0) == 1).all()


def test_correlations():
    one, other = np.array([1.0, 2, 3, 4]), np.array([1.0, 4, 9, 16])
    assert spearman(one, other) == pytest.approx(1)
    assert pearson(one, other) == pytest.approx(25 / np.sqrt(5 * 129))
    # Ranks with a tie: 1.5, 1.5, 3, 4.
    tied = np.array([2.0, 2, 5, 7])
    assert spearman(tied, one) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert pearson(one, np.ones(4)) is None
