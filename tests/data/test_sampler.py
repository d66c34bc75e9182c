"""Batches that every rank gets as many of, that hold every example once, and that can be found again."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lit_align.core.batch import Layout
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.batching import Budget, Size, plan_batches
from lit_align.data.sampler import ResumableBatchSampler

WORLDS = [1, 2, 3]


def sizes(count, seed=0, low=5, high=60):
    rng = random.Random(seed)
    lengths = [rng.randint(low, high) for _ in range(count)]
    return [Size(responses=2, longest=n, packed=2 * n - 2, shared=2 * n - n // 2) for n in lengths]


def sampler(count, rank=0, world=1, **settings):
    budget = Budget(settings.pop("rows", 4), settings.pop("tokens", None), settings.pop("layout", Layout.PADDED))
    return ResumableBatchSampler(sizes(count), budget, rank=rank, world_size=world, **settings)


def epoch_of(batch_sampler, epoch):
    batch_sampler.set_epoch(epoch)
    return list(batch_sampler)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("count", [3, 12, 13, 23, 24, 25, 100])
@pytest.mark.parametrize("settings", [{"bucket": True}, {"bucket": False}, {"tokens": 250}, {"remainder": "join"}])
def test_every_example_once_and_equal_batches_on_all_ranks(world, count, settings):
    ranks = [sampler(count, rank, world, **settings) for rank in range(world)]
    for epoch in range(3):
        batches = [epoch_of(rank, epoch) for rank in ranks]
        assert {len(own) for own in batches} == {len(ranks[0])}
        assert all(batch for own in batches for batch in own)
        seen = Counter(index for own in batches for batch in own for index in batch)
        assert seen == Counter(range(count))
    assert ranks[0].left_out == ranks[0].repeated == 0


@pytest.mark.parametrize("world", [2, 3])
def test_single_rows_that_do_not_go_round_are_repeated_or_joined(world):
    ranks = [sampler(7, rank, world, rows=1) for rank in range(world)]
    assert len({len(epoch_of(rank, 0)) for rank in ranks}) == 1
    assert ranks[0].repeated == -7 % world
    assert ranks[0].left_out == 0
    joined = [sampler(7, rank, world, rows=1, remainder="join", shuffle=False) for rank in range(world)]
    batches = [batch for rank in joined for batch in rank]
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert len({len(rank) for rank in joined}) == 1


def test_dropping_the_last_is_counted():
    dropping = sampler(23, 0, 2, remainder="drop")
    assert len(dropping) == 2
    assert dropping.left_out == 23 - 16
    assert all(len(batch) == 4 for batch in epoch_of(dropping, 0))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("tokens", [20_000, 6_000, 2_000])
def test_dropping_from_a_token_budget_leaves_equal_batches(world, tokens):
    """A large budget makes fewer batches than there are processes, and leaves them all out."""
    ranks = [sampler(64, rank, world, tokens=tokens, remainder="drop") for rank in range(world)]
    for epoch in range(20):
        assert {len(epoch_of(rank, epoch)) for rank in ranks} == {len(ranks[0])}
    assert (len(ranks[0]) == 0) == (ranks[0].left_out == 64)


def test_epochs_differ_and_are_the_same_again():
    one, other = sampler(50), sampler(50)
    epochs = [epoch_of(one, epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [epoch_of(other, epoch) for epoch in range(3)] == epochs
    assert epoch_of(sampler(50, seed=1), 0) != epochs[0]
    # Which examples meet in a batch differs too, not only the order of the batches.
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}


def test_no_shuffling_keeps_the_order():
    plain = sampler(10, shuffle=False, bucket=False)
    assert epoch_of(plain, 0) == epoch_of(plain, 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("settings", [{}, {"tokens": 200}, {"rows": 1}])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_starts_anywhere_once(settings, start):
    whole = epoch_of(sampler(40, 1, 2, **settings), 2)
    resumed = sampler(40, 1, 2, **settings)
    resumed.start = start
    assert epoch_of(resumed, 2) == whole[start:]
    assert epoch_of(resumed, 2) == whole


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("world", WORLDS)
def test_token_budget_is_kept_and_used(layout, world):
    costs, budget = sizes(200), Budget(4, 300, layout)
    own = ResumableBatchSampler(costs, budget, world_size=world)
    for epoch in range(4):
        plan = own.batches(epoch)
        assert all(budget.cost([costs[index] for index in batch]) <= 300 for batch in plan)
        assert len(plan) == len(own) * world
        total = sum(budget.cost([costs[index] for index in batch]) for batch in plan)
        assert total / (300 * len(plan)) > 0.75


def test_token_budget_counts_what_the_layout_costs():
    costs = [Size(responses=2, longest=10, packed=20, shared=12)] * 12
    assert len(plan_batches(range(12), costs, Budget(0, 60, Layout.PADDED))) == 4
    assert len(plan_batches(range(12), costs, Budget(0, 60, Layout.SHARED))) == 3
    mixed = [Size(2, 10, 12, 11), Size(2, 30, 60, 40)]
    assert Budget(0, 99, Layout.PADDED).cost(mixed) == 4 * 30
    assert Budget(0, 99, Layout.PACKED).cost(mixed) == 72


def test_epochs_of_a_token_budget_have_equal_numbers_of_batches():
    own = sampler(300, tokens=150)
    assert {len(epoch_of(own, epoch)) for epoch in range(30)} == {len(own)}


def test_an_example_over_the_budget_is_named():
    with pytest.raises(ConfigError, match=r"over max_tokens_per_batch[\s\S]*max_tokens_per_batch to"):
        sampler(40, tokens=60)


def test_bucketing_saves_padding():
    costs = sizes(512)
    budget = Budget(8)

    def padding(bucket):
        plan = ResumableBatchSampler(costs, budget, bucket=bucket).batches(0)
        return sum(budget.cost([costs[i] for i in batch]) for batch in plan)

    assert padding(True) < 0.75 * padding(False)


def test_ranks_that_work_together_have_similar_lengths():
    costs = sizes(512)
    plan = ResumableBatchSampler(costs, Budget(8), world_size=2).batches(1)
    longest = [max(costs[i].longest for i in batch) for batch in plan]
    gaps = [abs(a - b) for a, b in zip(longest[::2], longest[1::2], strict=True)]
    assert sum(gaps) / len(gaps) < 5


def test_evaluation_needs_a_row_for_each_process():
    with pytest.raises(DataError, match="3 rows for 4 processes"):
        sampler(3, 0, 4, remainder="join")


@pytest.mark.parametrize("change", [{"seed": 1}, {"rows": 3}, {"world": 2}, {"bucket": False}, {"tokens": 200}])
def test_fingerprint_changes_with_what_moves_examples(change):
    assert sampler(40).fingerprint == sampler(40).fingerprint
    assert sampler(40).fingerprint != sampler(40, **change).fingerprint
    assert sampler(40).fingerprint != sampler(41).fingerprint


def test_lightning_sets_the_epoch():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    from lit_align.core.batch import DataKind, Example
    from lit_align.data.collate import Collator
    from lit_align.data.loader import ResumableLoader

    own = sampler(8)
    examples = [Example(n, [[1, 2]], [1]) for n in range(8)]
    _set_sampler_epoch(ResumableLoader(examples, own, Collator(DataKind.DEMONSTRATIONS, Layout.PADDED)), 3)
    assert own.epoch == 3


def test_no_examples_no_batches():
    assert list(sampler(0)) == []
