"""Steps of a round: made once, found again, made anew when what they are made of changes; nothing is deleted."""

from __future__ import annotations

import json
import os

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.ranks import Ranks
from lit_align.loops.revision import accept, changed_steps, redo, start_of
from lit_align.loops.round import Round
from lit_align.loops.store import RoundFolder, read_rows, write_rows


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Maker:
    """Makes a round of three steps and counts what was done."""

    def __init__(self, folder: RoundFolder, inputs: str = "weights", ranks: Ranks | None = None) -> None:
        self.round = Round(folder, inputs, ranks, part_size=2)
        self.done: list[str] = []

    def make(self, factor: int = 2, **settings):
        first = self.round.step("first", self._first)
        second = self.round.spread("second", first, lambda rows: self._second(rows, factor), factor=factor)
        return self.round.step("third", lambda: self._third(second), **settings)

    def _first(self):
        self.done.append("first")
        return [{"n": n} for n in range(5)]

    def _second(self, rows, factor):
        self.done.append(f"second of {[row['n'] for row in rows]}")
        return [{"n": factor * row["n"]} for row in rows]

    def _third(self, rows):
        self.done.append("third")
        self.round.counts["left out"] += 1
        return [{"sum": sum(row["n"] for row in rows)}]


@pytest.fixture
def folder(tmp_path) -> RoundFolder:
    return RoundFolder.of(tmp_path, 1)


def test_steps_are_made_once(folder):
    first, second = Maker(folder), Maker(folder)
    assert first.make() == second.make() == [{"sum": 20}]
    assert first.done == ["first", "second of [0, 1]", "second of [2, 3]", "second of [4]", "third"]
    assert second.done == []
    assert folder.steps["third"]["left_out"] == {"left out": 1}
    assert not (folder.path / "parts").exists()


def test_other_inputs_make_everything_anew_and_keep_the_old(folder):
    Maker(folder).make()
    again = Maker(folder, "other weights")
    again.make()
    assert again.done[0] == "first"
    assert len(again.done) == 5
    assert len(list((folder.path / "stale").glob("*.jsonl"))) == 3


def test_another_setting_keeps_the_steps_before_it(folder):
    Maker(folder).make()
    again = Maker(folder)
    assert again.make(factor=3) == [{"sum": 30}]
    assert again.done == ["second of [0, 1]", "second of [2, 3]", "second of [4]", "third"]


@pytest.mark.parametrize("last", range(1, 10))
def test_killed_at_any_rename_it_is_made_again_alike(last, folder, tmp_path, monkeypatch):
    replace, renames = os.replace, []

    def killing(*paths):
        renames.append(paths)
        if len(renames) == last:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", killing)
    with pytest.raises(KeyboardInterrupt):
        Maker(folder).make()
    monkeypatch.setattr(os, "replace", replace)
    assert Maker(folder).make() == [{"sum": 20}]
    whole = RoundFolder.of(tmp_path / "whole", 1)
    Maker(whole).make()
    for step in ("first", "second", "third"):
        assert folder.file(step).read_bytes() == whole.file(step).read_bytes()


def test_nine_renames_are_all_there_are(folder, monkeypatch):
    replace, renames = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *paths: (renames.append(paths), replace(*paths)))
    Maker(folder).make()
    # Three parts; three steps with a manifest each.
    assert len(renames) == 3 + 3 * 2


def test_a_part_that_is_there_is_not_made_again(folder):
    maker = Maker(folder)
    first = maker.round.step("first", maker._first)
    with pytest.raises(KeyboardInterrupt):
        maker.round.spread("second", first, _second_time_killed(maker), factor=2)
    again = Maker(folder)
    again.make()
    assert again.done == ["second of [2, 3]", "second of [4]", "third"]


def test_parts_of_another_order_are_not_taken_for_these(folder):
    maker = Maker(folder)
    first = maker.round.step("first", maker._first)
    with pytest.raises(KeyboardInterrupt):
        maker.round.spread("second", first[::-1], _second_time_killed(maker), factor=2)
    again = Maker(folder)
    assert again.make() == [{"sum": 20}]
    assert again.done == ["second of [0, 1]", "second of [2, 3]", "second of [4]", "third"]


def _second_time_killed(maker):
    def work(rows):
        if len(maker.done) == 2:
            raise KeyboardInterrupt
        return maker._second(rows, 2)

    return work


def test_a_changed_file_is_found(folder):
    Maker(folder).make()
    write_rows(folder.file("second"), [{"n": 100}])
    assert changed_steps(folder) == ["second"]
    with pytest.raises(DataError, match="step 'second' of round 1 was changed after it was made"):
        Maker(folder).make()
    assert folder.rows("second") == [{"n": 100}]


def test_an_accepted_change_is_gone_on_from(folder, tmp_path):
    Maker(folder).make()
    write_rows(folder.file("second"), [{"n": 100}])
    assert accept(tmp_path, 1) == ["third"]
    again = Maker(folder)
    assert again.make() == [{"sum": 100}]
    assert again.done == ["third"]
    assert folder.steps["second"]["edited"]
    with pytest.raises(ConfigError, match="nothing in this round was changed"):
        accept(tmp_path, 1)


def test_a_step_is_redone_with_what_follows_and_later_rounds_go(folder, tmp_path):
    Maker(folder).make()
    Maker(RoundFolder.of(tmp_path, 2)).make()
    assert redo(tmp_path, 1, "second") == ["second", "third"]
    assert list(folder.steps) == ["first"]
    assert (tmp_path / "rounds" / "stale" / "round_2" / "third.jsonl").is_file()
    again = Maker(folder)
    assert again.make() == [{"sum": 20}]
    assert again.done[0] == "second of [0, 1]"


def test_what_cannot_be_redone_is_said(folder, tmp_path):
    with pytest.raises(ConfigError, match="no such round"):
        redo(tmp_path, 3)
    Maker(folder).make()
    with pytest.raises(ConfigError, match="no such step"):
        redo(tmp_path, 1, "fourth")
    Maker(RoundFolder.of(tmp_path, 2)).make()
    assert start_of(tmp_path, 1) is None
    with pytest.raises(ConfigError, match="was not kept"):
        start_of(tmp_path, 2)


def test_processes_share_the_parts(folder):
    """In threads that wait for each other, as processes do."""
    import threading

    barrier = threading.Barrier(2)
    makers = [Maker(folder, ranks=Ranks(rank, 2, barrier.wait)) for rank in range(2)]
    results: list = [None, None]

    def work(rank):
        results[rank] = makers[rank].make()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert results == [[{"sum": 20}]] * 2
    assert makers[0].done == ["first", "second of [0, 1]", "second of [4]", "third"]
    assert makers[1].done == ["second of [2, 3]"]


def test_damage_is_named(folder):
    Maker(folder).make()
    (folder.path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest is not JSON"):
        Maker(folder).make()
    path = folder.path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert error.value.row == 2


def test_rows_keep_what_text_cannot_say(tmp_path):
    rows = [{"text": "\ud800 \u2028 é"}, {"text": "\x85"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert len((tmp_path / "rows.jsonl").read_bytes().split(b"\n")) == 3
    assert json.loads((tmp_path / "rows.jsonl").read_bytes().split(b"\n")[0]) == rows[0]
