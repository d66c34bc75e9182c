"""Who writes what: processes share generation evenly, in parts that do not depend on how many processes there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

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
def test_processes_share_prompts_evenly_to_within_a_batch(number, samples, batch, world, tmp_path):
    parts, rows = _shared(tmp_path, _prompts(number), samples, batch, world)
    asked = [sum(map(len, own)) for own in parts]
    together = max(1, batch // samples)
    assert sum(asked) == number
    assert max(asked) - min(asked) <= max(together, part_of(_Engine(batch), number, samples) or 0)
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


def test_very_many_prompts_are_written_in_several_batches_at_once():
    assert part_of(_Engine(8), 384, 4) == 2 * 1
    assert part_of(_Engine(8), 10_000, 4) == 2 * 26
    # More is never made at once than the loop allows.
    assert part_of(_Engine(8), 10**6, 4) == 2 * 2604


@pytest.mark.parametrize(("part_size", "batch", "largest"), [(64, None, 64), (3, 8, 3), (64, 32, 32)])
def test_an_engine_that_batches_by_itself_gets_whole_parts(part_size, batch, largest, tmp_path):
    parts, _ = _shared(tmp_path, _prompts(130), 1, batch, 1, part_size)
    assert max(map(len, parts[0])) == largest
