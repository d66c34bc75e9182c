"""Held-out rows: no prompt on both sides, and the same ones for the same seed."""

from __future__ import annotations

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.module import PreferenceDataModule
from tests.data.modules import pair_rows, write


@pytest.mark.parametrize("amount", [0.3, 7])
def test_no_prompt_on_both_sides(tmp_path, make, amount):
    path = write(tmp_path / "rows.jsonl", pair_rows(60, prompts=13))
    data = make(path, val_split=amount)
    texts = {}
    for split in ("train", "validation"):
        store = data.examples(split, DataKind.PAIRS)
        texts[split] = {tuple(example.ids[0][: example.prompt_lengths[0]]) for example in store}
        texts[split + " rows"] = {example.row for example in store}
    assert not texts["train"] & texts["validation"]
    assert texts["train rows"] | texts["validation rows"] == set(range(1, 61))
    wanted = 18 if amount < 1 else 7
    assert wanted <= len(texts["validation rows"]) < wanted + 5


def test_the_split_follows_from_its_seed(make, pairs):
    def held_out(seed):
        return [example.row for example in make(pairs, val_split=5, split_seed=seed).examples("validation")]

    assert held_out(1) == held_out(1) != held_out(2)


def test_a_converted_pair_stays_on_one_side(make, pairs):
    data = make(pairs, val_split=0.4, convert="pairs_to_unpaired")
    rows = {split: {e.row for e in data.examples(split, DataKind.UNPAIRED)} for split in ("train", "validation")}
    assert not rows["train"] & rows["validation"]
    assert rows["train"] | rows["validation"] == set(range(1, 27))


@pytest.mark.parametrize(("amount", "error"), [(1.5, ConfigError), (-1, ConfigError), (26, DataError), (99, DataError)])
def test_impossible_splits(make, pairs, amount, error):
    with pytest.raises(error, match="val_split"):
        make(pairs, val_split=amount).examples("train")


def test_one_row_can_be_held_out():
    assert PreferenceDataModule("pairs.jsonl", val_split=1).val_split == 1


def test_a_split_that_leaves_one_label_is_refused(tmp_path, make):
    rows = [{"prompt": f"Q{n}?", "completion": "x", "label": n == 0} for n in range(8)]
    path = write(tmp_path / "kto.jsonl", rows)
    outcomes = set()
    for seed in range(12):
        data = make(path, val_split=4, split_seed=seed)
        held_out = [example.row for example in data.examples("validation", DataKind.UNPAIRED)]
        outcomes.add(1 in held_out)
        if 1 in held_out:
            with pytest.raises(DataError, match=r"leaves 4 labels that are all the same[\s\S]*data.split_seed"):
                data.examples("train", DataKind.UNPAIRED)
        else:
            assert len(data.examples("train", DataKind.UNPAIRED)) == 4
            text = data.reports["train"].to_text()
            assert "labels: 1 desirable, 7 undesirable" in text
            assert "4 examples to learn from (1 desirable, 3 undesirable), 4 held out" in text
    assert outcomes == {True, False}
