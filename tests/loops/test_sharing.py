"""Who writes what: processes share generation evenly, in parts that do not depend on how many processes there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_align.core.errors import DataError
from lit_align.loops.live import LiveRound, Means
from lit_align.loops.ranks import Ranks
from lit_align.loops.store import RoundFolder, Row
from lit_align.loops.writer import Sampling, part_of


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class _Engine:
    def __init__(self, batch_size: int | None) -> None:
        if batch_size is not None:
            self.batch_size = batch_size


class _Writes:
    """A writer that says which prompts it was asked, call by call."""

    def __init__(self, batch_size: int | None) -> None:
        self.engine, self.parts = _Engine(batch_size), list[list[str]]()

    def length(self, prompt: Row) -> int:
        return len(prompt["prompt"])

    def write(self, prompts: Sequence[Row], *, samples: int, **_: Any) -> list[Row]:
        self.parts.append([row["prompt"] for row in prompts])
        return [{"id": row["id"], "sample": k, "completion": row["prompt"]} for row in prompts for k in range(samples)]


def _shared(
    folder: Path, prompts: Sequence[Row], samples: int, batch: int | None, world: int, part_size: int = 64
) -> tuple[list[list[list[str]]], list[Row]]:
    """The parts that each process wrote, and the rows that all of them have afterwards."""
    barrier = threading.Barrier(world)
    writers, found = [_Writes(batch) for _ in range(world)], dict[int, list[Row]]()

    def process(rank: int) -> None:
        means = Means(list, writers[rank], Sampling(), 7)  # type: ignore[arg-type]
        ranks = Ranks(rank, world, lambda: (barrier.wait(30), None)[1])
        found[rank] = LiveRound(RoundFolder.of(folder, 1), "inputs", means, ranks, part_size).candidates(
            prompts, samples
        )

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(found[rank] == found[0] for rank in range(world))
    return [writer.parts for writer in writers], found[0]


def _prompts(number: int) -> list[Row]:
    # Lengths in no order, and some of them alike.
    return [{"id": str(place), "prompt": "x" * (1 + place * 7 % 41)} for place in range(number)]


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize(("number", "samples", "batch"), [(320, 4, 8), (320, 1, 8), (50, 16, 8), (1000, 8, 16)])
def test_processes_share_prompts_evenly_to_within_a_part(number, samples, batch, world, tmp_path):
    parts, rows = _shared(tmp_path, _prompts(number), samples, batch, world)
    asked = [sum(map(len, own)) for own in parts]
    assert sum(asked) == number
    # Of a thousand prompts, two by two, a part is two batches.
    assert max(asked) - min(asked) <= {1000: 4}.get(number, max(1, batch // samples))
    assert [(row["id"], row["sample"]) for row in rows] == [
        (str(place), k) for place in range(number) for k in range(samples)
    ]


def test_320_prompts_on_two_processes_are_160_each(tmp_path):
    parts, _ = _shared(tmp_path, _prompts(320), 4, 8, 2)
    assert [sum(map(len, own)) for own in parts] == [160, 160]
    # Of the length of what is written to, too: like goes with like.
    first, second = (sum(len(text) for part in own for text in part) for own in parts)
    assert first == pytest.approx(second, rel=0.02)


def test_parts_are_the_same_whatever_the_number_of_processes_and_the_longest_come_first(tmp_path):
    whole = None
    for world in (1, 2, 3):
        parts, rows = _shared(tmp_path / str(world), _prompts(45), 2, 8, world)
        dealt = [parts[number % world][number // world] for number in range(sum(map(len, parts)))]
        whole = whole or (dealt, rows)
        assert (dealt, rows) == whole
    lengths = [len(text) for part in whole[0] for text in part]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("prompts", "samples", "batch", "part"),
    [
        (300, 4, 8, 2),
        (768, 4, 8, 4),
        # As many as the loop allows, and as whole batches.
        (10**6, 4, 8, 64),
        (20_000, 1, 40, 40),
        (10**6, 1, 24, 48),
        # A batch is one however large, and of at least one prompt.
        (320, 1, 256, 256),
        (320, 16, 8, 1),
    ],
)
def test_a_part_is_a_batch_or_several_where_there_are_very_many(prompts, samples, batch, part):
    assert part_of(_Engine(batch), prompts, samples, 64) == part


@pytest.mark.parametrize(("part_size", "batch", "largest"), [(64, 32, 32), (3, 8, 3), (64, 256, 64)])
def test_no_part_is_larger_than_the_loop_allows(part_size, batch, largest, tmp_path):
    parts, _ = _shared(tmp_path, _prompts(130), 1, batch, 1, part_size)
    assert max(map(len, parts[0])) == largest


def test_an_engine_that_batches_by_itself_gets_whole_parts(tmp_path):
    parts, _ = _shared(tmp_path, _prompts(130), 1, None, 1)
    assert [*map(len, parts[0])] == [64, 64, 2]


def test_two_prompts_of_one_id_are_refused(tmp_path):
    twice = [{"id": "a", "prompt": "1"}, {"id": "b", "prompt": "2"}, {"id": "a", "prompt": "3"}]
    means = Means(list, _Writes(8), Sampling(), 7)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"two prompts of a round have one id\n.*field 'id': 'a'"):
        LiveRound(RoundFolder.of(tmp_path, 1), "inputs", means).candidates(twice, 2)
