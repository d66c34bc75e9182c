"""Data given as paths and as objects in memory: what becomes of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.module import PreferenceDataModule
from tests.data.modules import QUIET, Method, fit, pair_rows, rows_of, trainer, write

pytestmark = QUIET
ROWS = pair_rows(9)


@pytest.fixture
def from_file(tmp_path, make):
    """The examples of the rows in a file."""
    return list(make(write(tmp_path / "rows.jsonl", ROWS)).examples("train", DataKind.PAIRS))


@pytest.mark.parametrize("given", [Dataset.from_list(ROWS), ROWS, tuple(ROWS)], ids=["Dataset", "list", "tuple"])
def test_rows_in_memory_are_those_of_a_file(given, make, from_file):
    data = make(given)
    assert list(data.examples("train", DataKind.PAIRS)) == from_file
    assert data.reports["train"].to_text().startswith("the data set given as train: pairs")


def test_paths_are_taken_everywhere(tmp_path, tiny_model_dir, from_file):
    path, template = Path(write(tmp_path / "rows.jsonl", ROWS)), tmp_path / "template.jinja"
    template.write_text("{{ messages }}{{ eos_token }}")
    splits = dict.fromkeys(["train", "validation", "test", "predict"], path)
    data = PreferenceDataModule(
        **splits, tokenizer=Path(tiny_model_dir), chat_template=template, cache_dir=tmp_path / "cache"
    )
    for split in splits:
        assert len(data.examples(split, DataKind.PAIRS)) == len(from_file)
    # Checkpoints hold the state, and no paths.
    assert json.loads(json.dumps(data.state_dict())) == data.state_dict()


def test_every_stage_reads_rows_in_memory(tmp_path, make):
    rows = Dataset.from_list(ROWS)
    data, method = make(rows, validation=rows, test=ROWS, predict=ROWS), Method()
    fit(tmp_path, data, method)
    own = trainer(tmp_path)
    own.test(method, data, verbose=False)
    own.predict(method, data)
    numbers = list(range(1, 10))
    assert sorted(row for _, _, seen, _, _ in method.seen for row in seen) == numbers
    assert rows_of(method.validated) == rows_of(method.tested) == rows_of(method.predicted) == numbers
    saved = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert saved["predict"]["source"] == "the data set given as predict"


def test_rows_in_memory_are_split_and_streamed(tmp_path, make):
    split = fit(tmp_path, make(ROWS, val_split=3))
    assert sum(len(rows) for _, _, rows, _, _ in split.seen) == 6
    streamed = fit(tmp_path, make(Dataset.from_list(ROWS), streaming=True, stream_buffer=5), max_steps=3)
    assert sorted(row for _, _, rows, _, _ in streamed.seen for row in rows) == list(range(1, 10))


def test_the_cache_knows_rows_in_memory_by_their_content(tmp_path, make):
    for rows, entries in ((ROWS, 1), ([dict(row) for row in ROWS], 1), (ROWS[:-1], 2)):
        make(rows).examples("train", DataKind.PAIRS)
        assert len(list((tmp_path / "cache").iterdir())) == entries


def test_columns_that_only_some_rows_have_are_kept(make):
    rows = [*ROWS, {**ROWS[0], "prompt": "Q again?", "margin": 2.0}]
    examples = make(rows).examples("train", DataKind.PAIRS)
    assert [example.margins for example in examples][-2:] == [None, [2.0]]


def test_the_users_format_does_not_matter_but_hidden_columns_stay_hidden(make, from_file):
    named = Dataset.from_list([{**row, "id": "the same"} for row in ROWS])
    visible = named.with_format("numpy", columns=["prompt", "chosen", "rejected"])
    assert list(make(visible).examples("train", DataKind.PAIRS)) == from_file


def test_a_row_in_memory_is_named_in_errors(make):
    with pytest.raises(DataError) as caught:
        make([*ROWS, {**ROWS[0], "prompt": None}]).examples("train", DataKind.PAIRS)
    assert "the data set given as train, row 10, field 'prompt'" in str(caught.value)
    with pytest.raises(DataError, match="the data set given as train: '0 rows'"):
        make([]).examples("train", DataKind.PAIRS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Dataset.from_list(ROWS).to_iterable_dataset(), r"data\.test: IterableDataset[\s\S]*data\.streaming: true"),
        (DatasetDict({"a": Dataset.from_list(ROWS)}), r"data\.test: DatasetDict[\s\S]*one of its splits: 'a'"),
        (Dataset.from_list(ROWS).with_transform(lambda rows: rows), "with_transform"),
        (iter(ROWS), r"data\.test: list_iterator[\s\S]*a list of dicts"),
        (["a.jsonl", "b.jsonl"], r"data\.test: list[\s\S]*a list of dicts"),
        ([{"prompt": 1}, {"prompt": "a"}], "values of several types"),
        (7, r"data\.test: int"),
    ],
)
def test_other_objects_are_refused_at_once(given, message):
    with pytest.raises(ConfigError, match=message):
        PreferenceDataModule(test=given)
