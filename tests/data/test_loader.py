"""Loaders: window counts, resuming at any micro-batch, workers, the global RNG, streams."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lit_align.core.batch import Counts, DataKind, Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.data.batching import Budget
from lit_align.data.collate import Collator
from lit_align.data.loader import BatchLoader, ResumableLoader, Run
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.data.store import ExampleStore, Record, size_of
from lit_align.data.stream import StreamLoader

COLLATE = Collator(DataKind.DEMONSTRATIONS, Layout.PADDED)
EXAMPLES = [Example(n, [[1] * (3 + n % 5)], [1 + n % 2]) for n in range(26)]
STORE = ExampleStore.from_records(Record(example, 0) for example in EXAMPLES)


def sampler(**settings):
    return ResumableBatchSampler(STORE.sizes, Budget(4), **settings)


def loader(accumulation=1, limit=float("inf"), workers=0, **settings):
    run = Run(accumulation=lambda: accumulation, limit=lambda: limit)
    return ResumableLoader(STORE, sampler(**settings), COLLATE, run, num_workers=workers)


def rows(batches):
    return [batch.source_rows.tolist() for batch in batches]


def epoch_of(own, epoch=0):
    own.batch_sampler.set_epoch(epoch)
    return list(own)


def test_every_example_once():
    batches = epoch_of(loader())
    assert sorted(row for batch in rows(batches) for row in batch) == list(range(26))
    assert len(batches) == len(loader()) == 7


def test_a_window_has_the_counts_of_its_micro_batches():
    batches = epoch_of(loader(accumulation=3))
    for start in range(0, 7, 3):
        window = batches[start : start + 3]
        expected = Counts(*map(sum, zip(*(batch.counts() for batch in window), strict=True)))
        assert [batch.window for batch in window] == [expected] * len(window)


def test_the_last_window_ends_where_the_trainer_stops():
    batches = epoch_of(loader(accumulation=3, limit=5))
    assert len(batches) == 5
    assert batches[-1].window.examples == sum(batch.counts().examples for batch in batches[3:])


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("done", range(8))
def test_resumes_at_any_micro_batch(accumulation, done):
    whole = epoch_of(loader(accumulation), 2)
    first = loader(accumulation)
    first.batch_sampler.set_epoch(2)
    iterator = iter(first)
    for _ in range(min(done, 7)):
        next(iterator)
    state = first.state_dict()
    assert state["position"] == done % 7

    resumed = loader(accumulation)
    resumed.load_state_dict(state)
    rest = epoch_of(resumed, 2)
    assert rows(rest) == rows(whole)[done % 7 :]
    assert [batch.window for batch in rest] == [batch.window for batch in whole][done % 7 :]
    # The epoch after is whole again.
    assert rows(epoch_of(resumed, 3)) == rows(epoch_of(loader(accumulation), 3))


def test_state_is_taken_from_the_run_at_the_first_batch_only():
    states = [{"position": 2, "order": sampler().fingerprint}]
    own = ResumableLoader(STORE, sampler(), COLLATE, Run(restore=lambda: states.pop() if states else None))
    iterator = iter(own)
    assert len(states) == 1
    next(iterator)
    assert states == []
    assert len(list(iterator)) == 4
    assert len(list(own)) == 7


def test_a_position_in_other_batches_is_refused():
    state = {"position": 2, "order": sampler(seed=1).fingerprint}
    with pytest.raises(ConfigError, match=r"inside an epoch[\s\S]*same data settings"):
        loader().load_state_dict(state)
    loader().load_state_dict({**state, "position": 0})


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    own = loader(accumulation=2, workers=workers)
    own.load_state_dict({"position": 3, "order": sampler().fingerprint})
    batches = epoch_of(own, 1)
    expected = epoch_of(loader(accumulation=2), 1)[3:]
    assert rows(batches) == rows(expected)
    assert torch.equal(batches[0].rows.input_ids, expected[0].rows.input_ids)
    assert batches[0].window == expected[0].window


@pytest.mark.parametrize("make", [loader, lambda: BatchLoader(STORE, sampler(), COLLATE)])
def test_the_global_generators_stay_untouched(make):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    list(make())
    assert states() == before


def test_a_loader_is_no_dataloader_that_lightning_would_rebuild():
    from lightning.pytorch.utilities.data import _is_dataloader_shuffled

    assert not isinstance(loader(), torch.utils.data.DataLoader)
    assert not _is_dataloader_shuffled(loader())


def test_kto_batches_of_one_borrow_the_next_example():
    examples = [Example(n, [[n, 10 + n]], [1], label=True) for n in range(3)]
    store = ExampleStore.from_records(Record(example, 0) for example in examples)
    own = ResumableBatchSampler(store.sizes, Budget(1), shuffle=False)
    collate = Collator(DataKind.UNPAIRED, Layout.PADDED, mismatched=True)
    batches = list(BatchLoader(store, own, collate))
    assert [batch.kl_rows.target.tolist() for batch in batches] == [[11], [12], [10]]


@pytest.mark.parametrize("workers", [0, 2])
def test_kto_never_borrows_from_the_same_prompt(workers):
    examples = [Example(n // 2, [[n // 2, 10 + n]], [1], label=n % 2 == 0) for n in range(6)]
    store = ExampleStore.from_records(Record(example, 0) for example in examples)
    collate = Collator(DataKind.UNPAIRED, Layout.PADDED, mismatched=True)
    for size, borrowed in ((1, [[12], [12], [14], [14], [10], [10]]), (2, [[12, 12], [14, 14], [10, 10]])):
        own = ResumableBatchSampler(store.sizes, Budget(size), shuffle=False)
        batches = list(BatchLoader(store, own, collate, num_workers=workers))
        assert [batch.kl_rows.target.tolist() for batch in batches] == borrowed


# ---------------------------------------------------------------- streams


class Source:
    """Rows 1 to `count`; every seventh cannot be used."""

    def __init__(self, count=50):
        self.count = count
        self.read = 0
        self.closed = []

    def rows(self, skip):
        for number in range(skip + 1, self.count + 1):
            self.read += 1
            yield {"number": number}

    def examples(self, window):
        kept = (row["number"] for row in window if row["number"] % 7)
        return [Example(n, [[1] * (2 + n % 3)], [1]) for n in kept]

    def close(self, notes):
        self.closed.append(notes)


def stream(count=50, buffer=16, accumulation=1, limit=float("inf"), rank=0, world=1, epoch=0, shuffle=True):
    def make(sizes, place):
        return ResumableBatchSampler(sizes, Budget(4), rank=rank, world_size=world, seed=f"0/{place}", shuffle=shuffle)

    run = Run(accumulation=lambda: accumulation, limit=lambda: limit, epoch=lambda: epoch)
    return StreamLoader(Source(count), make, COLLATE, run, buffer=buffer, order="x")


def consumed(own, count):
    """What Lightning does: it asks for one batch more than it hands on."""
    iterator, ahead, taken = iter(own), [], []
    ahead.append(next(iterator, None))
    while len(taken) < count and ahead[0] is not None:
        ahead.append(next(iterator, None))
        taken.append(ahead.pop(0))
    return taken, ahead[0] is None


def test_a_stream_gives_every_usable_row_once():
    own = stream()
    seen = sorted(row for batch in rows(own) for row in batch)
    assert seen == [number for number in range(1, 51) if number % 7]
    assert own.stream.closed == [[]]
    assert rows(stream()) != rows(stream(shuffle=False))
    assert rows(stream(epoch=1)) != rows(stream(epoch=0))


def test_a_stream_has_no_length():
    with pytest.raises(TypeError):
        len(stream())


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_stream_get_equally_many_batches(world):
    ranks = [rows(stream(count=52, rank=rank, world=world)) for rank in range(world)]
    assert len({len(own) for own in ranks}) == 1
    seen = sorted(row for own in ranks for batch in own for row in batch)
    assert seen == [number for number in range(1, 53) if number % 7]


def test_a_stream_says_what_it_repeats():
    ranks = [stream(count=50, rank=rank, world=2) for rank in range(2)]
    assert rows(ranks[0])[-1] == rows(ranks[1])[-1] == [50]
    assert "1 examples per epoch are shown twice" in ranks[0].stream.closed[0][0]


@pytest.mark.parametrize("accumulation", [1, 3, 7])
@pytest.mark.parametrize("done", range(15))
def test_a_stream_resumes_at_any_micro_batch(accumulation, done):
    whole = list(stream(accumulation=accumulation, epoch=4))
    first = stream(accumulation=accumulation, epoch=4)
    taken, over = consumed(first, done)
    state = first.state_dict()
    assert (state["position"], state["epoch"]) == ((0, 5) if over else (len(taken), 4))

    # The epoch that Lightning says at the restart may be stale; the state knows.
    resumed = stream(accumulation=accumulation, epoch=0)
    resumed.load_state_dict(state)
    rest = list(resumed)
    expected = list(stream(accumulation=accumulation, epoch=5)) if over else whole[done:]
    assert rows(rest) == rows(expected)
    assert [batch.window for batch in rest] == [batch.window for batch in expected]


def test_a_resumed_stream_skips_windows_that_are_done():
    first = stream(count=200)
    consumed(first, 30)
    state = first.state_dict()
    assert state["window"][1] >= 112
    resumed = stream(count=200)
    resumed.load_state_dict(state)
    next(iter(resumed))
    assert resumed.stream.read == 16


def test_a_stream_stops_at_the_limit_and_begins_anew():
    own = stream(limit=5, accumulation=2)
    assert len(list(own)) == 5
    assert own.state_dict()["position"] == 0
    assert own.state_dict()["epoch"] == 1


def test_a_stream_with_other_settings_is_refused():
    first = stream()
    consumed(first, 3)
    with pytest.raises(ConfigError, match="inside an epoch"):
        stream(buffer=8).load_state_dict(first.state_dict())


def test_sizes_of_examples():
    assert size_of(Example(1, [[1, 2, 3], [1, 2, 4, 5]], [2, 2])) == (2, 4, 7, 5)
