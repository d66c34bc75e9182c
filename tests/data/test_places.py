"""Rows of several files: one number in batches, the file and its line in whatever a person reads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lit_align.callbacks.non_finite_guard import NonFiniteError, NonFiniteGuard
from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import DataError
from lit_align.core.module import StepRecord
from lit_align.data.canonical import BEFORE_COLUMN, FILE_COLUMN, ROW_COLUMN
from lit_align.data.collate import Collator
from lit_align.data.places import Places
from lit_align.data.readers import read_rows
from tests.data.modules import QUIET, Method, fit, make_module
from tests.data.reading import write_jsonl

pytestmark = QUIET
SAME = {"prompt": "Q?", "chosen": "yes", "rejected": "yes"}


def pair(text):
    return {"prompt": f"{text}?", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def folder(tmp_path):
    """Two files whose second row teaches nothing; the first file ends with line 4, after a blank one."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    first = tmp_path / "data" / "a.jsonl"
    first.write_text("\n".join(json.dumps(row) for row in (pair("a1"), SAME)) + "\n\n" + json.dumps(pair("a4")))
    write_jsonl(tmp_path / "data" / "deep" / "b.jsonl", [pair("b1"), SAME, pair("b3")])
    return tmp_path / "data"


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_know_what_stands_in_front_of_their_file(folder, streaming, tmp_path):
    places = Places(str(folder))
    rows = list(read_rows(folder, streaming=streaming, cache_dir=tmp_path / "cache"))
    assert [(row[ROW_COLUMN], row[BEFORE_COLUMN]) for row in rows] == [(1, 0), (2, 0), (4, 0), (1, 4), (2, 4), (3, 4)]
    numbers = [places.number(row) for row in rows]
    assert numbers == [1, 2, 4, 5, 6, 7]
    assert [places.find(number) for number in numbers] == [(row[FILE_COLUMN], row[ROW_COLUMN]) for row in rows]
    assert [places.label(number) for number in (4, 5)] == ["a.jsonl:4", "deep/b.jsonl:1"]


def test_a_stream_that_goes_on_in_a_later_file(folder):
    places = Places(str(folder))
    numbers = [places.number(row) for row in read_rows(folder, streaming=True).skip(4)]
    assert [places.label(number) for number in numbers] == ["deep/b.jsonl:2", "deep/b.jsonl:3"]
    for row in read_rows(folder, streaming=True):
        places.number(row)
    assert [places.label(number) for number in (4, 5, 7)] == ["a.jsonl:4", "deep/b.jsonl:1", "deep/b.jsonl:3"]


def test_rows_of_one_file_are_their_lines(folder):
    places = Places(str(folder / "a.jsonl"))
    numbers = [places.number(row) for row in read_rows(folder / "a.jsonl", streaming=True)]
    assert numbers == [1, 2, 4]
    assert places.label(4) == "4"
    assert places.find(4) == (str(folder / "a.jsonl"), 4)


def test_rows_of_a_hub_set_are_their_numbers():
    places = Places("org/name")
    assert places.number({ROW_COLUMN: 7}) == 7
    assert (places.find(7), places.label(7)) == (("org/name", 7), "7")


def test_the_report_names_files_and_merges_no_rows(folder, tmp_path):
    data = make_module(tmp_path, str(folder))
    examples = data.examples("train", DataKind.PAIRS)
    assert [example.row for example in examples] == [1, 4, 5, 7]
    report = data.reports["train"]
    (dropped,) = report.to_dict()["dropped"].values()
    assert dropped == {"total": 2, "rows": ["a.jsonl:2", "deep/b.jsonl:2"], "more": False}
    assert "dropped, the two responses are identical: 2 (rows a.jsonl:2, deep/b.jsonl:2)" in report.to_text()
    assert [data.where(row) for row in (4, 5)] == ["a.jsonl:4", "deep/b.jsonl:1"]


def test_a_cached_report_holds_after_the_folder_was_moved(folder, tmp_path):
    make_module(tmp_path, str(folder)).examples("train", DataKind.PAIRS)
    entries = list((tmp_path / "cache").iterdir())
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    data = make_module(tmp_path, f"{moved}/")
    data.examples("train", DataKind.PAIRS)
    assert list((tmp_path / "cache").iterdir()) == entries
    assert data.where(5) == "deep/b.jsonl:1"
    assert data.reports["train"].places.find(5) == (str(moved / "deep" / "b.jsonl"), 1)


def test_errors_while_tokenising_name_the_file(folder, tmp_path):
    write_jsonl(folder / "c.jsonl", [pair("c1"), pair("long" * 100)])
    with pytest.raises(DataError, match="longer than the limits") as caught:
        make_module(tmp_path, str(folder), max_length=64, on_overlong="error").examples("train", DataKind.PAIRS)
    assert (caught.value.file, caught.value.row) == (str(folder / "c.jsonl"), 2)


def test_an_id_of_two_files_names_both(folder, tmp_path):
    for name in ("a", "deep/b"):
        write_jsonl(folder / f"{name}.jsonl", [{**pair(name), "id": "same"}])
    with pytest.raises(DataError, match="same id") as caught:
        make_module(tmp_path, str(folder)).examples("train", DataKind.PAIRS)
    assert (caught.value.file, caught.value.row) == (str(folder / "deep" / "b.jsonl"), 1)
    assert f"first in row 1 of {folder / 'a.jsonl'}" in str(caught.value)


def test_equal_rows_of_two_files_are_different_prompts(folder, tmp_path):
    """KTO pairs a prompt with the completion of another: the first row of another file is another prompt."""
    data = make_module(tmp_path, str(folder), convert="pairs_to_unpaired")
    examples = list(data.examples("train", DataKind.UNPAIRED))
    firsts = [next(e for e in examples if data.where(e.row) == place) for place in ("a.jsonl:1", "deep/b.jsonl:1")]
    collate = Collator(DataKind.UNPAIRED, Layout.PADDED, mismatched=True)
    assert collate.draw([firsts[0], firsts[1]], [0]).neighbour == firsts[1]


def test_a_stream_names_files_while_it_is_read(folder, tmp_path):
    data = make_module(tmp_path, str(folder), streaming=True, stream_buffer=4, batch_size=1)
    seen = []

    class Asking(Method):
        def training_step(self, batch, batch_idx):
            seen.extend(data.where(row) for row in batch.source_rows.tolist())
            return super().training_step(batch, batch_idx)

    fit(tmp_path, data, Asking(), max_epochs=2)
    expected = ["a.jsonl:1", "a.jsonl:4", "deep/b.jsonl:1", "deep/b.jsonl:3"]
    assert (sorted(seen[:4]), sorted(seen[4:])) == (expected, expected)
    saved = json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]
    assert saved["dropped"]["the two responses are identical"]["rows"] == ["a.jsonl:2", "deep/b.jsonl:2"]


def test_a_loss_that_is_no_number_names_the_file(folder, tmp_path):
    class Failing(Method):
        def training_step(self, batch, batch_idx):
            values = torch.where(batch.source_rows == 5, torch.nan, 1.0)
            self.last_step = StepRecord(values.mean(), values, batch.source_rows, {})
            return self.weight * values.mean()

    with pytest.raises(NonFiniteError, match=r"rows deep/b\.jsonl:1 \(loss nan\)"):
        fit(tmp_path, make_module(tmp_path, str(folder)), Failing(), callbacks=[NonFiniteGuard()])
