"""Pairs that say of each response whether it is harmless, PKU-SafeRLHF's among them, and pairs with weights."""

from __future__ import annotations

import pytest
import torch

from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import DataError
from lit_align.data.canonical import CONTRADICTORY
from lit_align.data.collate import Collator, Drawn
from tests.data.modules import QUIET, Method, trainer, write

pytestmark = QUIET

ROW = {"prompt": "Q?", "chosen": " yes", "rejected": " no"}
SAFE = {**ROW, "chosen_safe": True, "rejected_safe": False}
PKU = {"prompt": "Q?", "response_0": "zero", "response_1": "one", "better_response_id": 1, "safer_response_id": 0,
       "is_response_0_safe": True, "is_response_1_safe": False}  # fmt: skip


class Asking(Method):
    """Asks for facts of pairs."""

    def __init__(self, *needed, reads=(), kind=DataKind.PAIRS):
        super().__init__(kind)
        self.needs_fields = frozenset(needed)
        self.reads = reads


def read(tmp_path, make, rows, method=None, kind=DataKind.PAIRS, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    data.sets.method = method
    return data, data.examples("train", kind)


def first_response(data, example):
    return data.tokenizer.decode(example.ids[0][example.prompt_lengths[0] :])


def test_safety_is_read_on_request(tmp_path, make):
    rows = [SAFE, {**SAFE, "rejected_safe": "true"}, {**SAFE, "chosen_safe": 0}]
    _, examples = read(tmp_path, make, rows, Asking("safety"))
    assert [example.safe for example in examples] == [[True, False], [True, True], [False, False]]
    data, _ = read(tmp_path, make, rows, Asking("safety"))
    assert "\n  harmless: 2 chosen, 1 rejected" in data.reports["train"].to_text()
    data, examples = read(tmp_path, make, rows, Asking())
    assert [example.safe for example in examples] == [None] * 3
    assert "not read: chosen_safe, rejected_safe" in data.reports["train"].format


def test_batches_know_what_is_safe(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [SAFE, {**SAFE, "chosen_safe": False}])
    method = Asking("safety")
    trainer(tmp_path).validate(method, make(validation=path), verbose=False)
    [batch] = method.validated
    found = dict(zip(batch.source_rows.tolist(), batch.chosen_safe.tolist(), strict=True))
    assert found == {1: True, 2: False}
    assert batch.rejected_safe.tolist() == [False, False]
    assert batch.chosen_safe.dtype == torch.bool
    assert batch.weight is None


@pytest.mark.parametrize(
    ("broken", "field", "what"),
    [
        ({"chosen_safe": None}, "chosen_safe", "null"),
        ({"rejected_safe": "perhaps"}, "rejected_safe", "neither true nor false"),
        ({"rejected_safe": 0.5}, "rejected_safe", "neither true nor false"),
        ({"chosen_safe": None, "rejected_safe": None}, "chosen_safe", "Asking needs the safety of every pair"),
    ],
)
def test_broken_rows_are_named(tmp_path, make, broken, field, what):
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, [SAFE, {**SAFE, **broken}], Asking("safety"))
    error = caught.value
    assert (error.row, error.field) == (2, field)
    assert what in error.what
    assert error.fix


@pytest.mark.parametrize("first", [SAFE, PKU])
def test_contradictory_rows_are_dropped_and_counted(tmp_path, make, first):
    wrong = {"chosen_safe": False, "rejected_safe": True}
    wrong |= {"is_response_0_safe": False, "is_response_1_safe": True}
    rows = [first, {**first, **{name: value for name, value in wrong.items() if name in first}}]
    data, examples = read(tmp_path, make, rows, Asking("safety"))
    assert [example.row for example in examples] == [1]
    assert data.reports["train"].dropped[CONTRADICTORY].rows == [2]
    _, examples = read(tmp_path, make, rows, Asking())
    assert len(examples) == 2


def test_pku_is_read_by_what_is_asked(tmp_path, make):
    data, [example] = read(tmp_path, make, [PKU], Asking())
    assert (first_response(data, example), example.safe) == ("one</s>", None)
    assert "not read: safer_response_id" in data.reports["train"].format
    data, [example] = read(tmp_path, make, [PKU], Asking("safety"))
    assert (first_response(data, example), example.safe) == ("zero</s>", [True, False])
    assert "not read: better_response_id" in data.reports["train"].format
    data, [example] = read(tmp_path, make, [PKU], Asking("safety"), DataKind.RESPONSES)
    assert (first_response(data, example), example.safe) == ("zero</s>", [True, False])
    data, [example] = read(tmp_path, make, [PKU], kind=None)
    assert first_response(data, example) == "one</s>"


def test_pku_rows_without_a_verdict(tmp_path, make):
    rows = [PKU, {**PKU, "better_response_id": -1}, {**PKU, "response_0": ""}]
    data, examples = read(tmp_path, make, rows)
    assert [example.row for example in examples] == [1]
    assert [tally.rows for tally in data.reports["train"].dropped.values()] == [[2], [3]]


# ---------------------------------------------------------------- weights


def test_weights_are_read_on_request(tmp_path, make):
    rows = [{**ROW, "weight": 2}, {**ROW, "weight": "0.5"}, ROW]
    _, examples = read(tmp_path, make, rows, Asking(reads=("weight",)))
    assert [example.weights for example in examples] == [[2.0], [0.5], None]
    batch = Collator(DataKind.PAIRS, Layout.PADDED)(Drawn(list(examples)))
    assert batch.weight.tolist() == [2.0, 0.5, 1.0]
    assert batch.weight.dtype == torch.float64
    _, examples = read(tmp_path, make, rows, Asking())
    assert [example.weights for example in examples] == [None] * 3


@pytest.mark.parametrize(
    ("weight", "what"), [(-1, "negative"), (float("inf"), "not finite"), ("much", "expected a number")]
)
def test_weights_that_mean_nothing(tmp_path, make, weight, what):
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, [ROW, {**ROW, "weight": weight}], Asking(reads=("weight",)))
    assert (caught.value.row, caught.value.field) == (2, "weight")
    assert what in caught.value.what


def test_facts_do_not_outlive_a_conversion(tmp_path, make):
    _, examples = read(tmp_path, make, [SAFE], Asking("safety"), DataKind.UNPAIRED, convert="pairs_to_unpaired")
    assert [(example.weights, example.safe) for example in examples] == [(None, None)] * 2
