"""Pairs that say how sure their label is, how often each response wins, and where the pair comes from."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from tests.data.modules import QUIET, Method, trainer, write

pytestmark = QUIET

ROW = {"prompt": "Q?", "chosen": " yes", "rejected": " no"}
WHOLE = {**ROW, "label_probability": 0.8, "p_win_chosen": 0.7, "p_win_rejected": 0.25, "source": "game"}
FACTS = ("label_probability", "win_probabilities", "source")


class Asking(Method):
    """Asks for facts of pairs."""

    def __init__(self, *needed):
        super().__init__(DataKind.PAIRS)
        self.needs_fields = frozenset(needed)


def read(tmp_path, make, rows, method, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    data.sets.method = method
    return data.examples("train")


def test_batches_know_them(tmp_path, make):
    other = {**ROW, "label_probability": "0.4", "p_win_chosen": 1, "p_win_rejected": 0, "source": "human"}
    method = Asking(*FACTS)
    path = write(tmp_path / "rows.jsonl", [WHOLE, other])
    trainer(tmp_path).validate(method, make(validation=path), verbose=False)
    [batch] = method.validated
    order = batch.source_rows.argsort()
    assert batch.label_probability[order].tolist() == [0.8, 0.4]
    assert batch.chosen_wins[order].tolist() == [0.7, 1.0]
    assert batch.rejected_wins[order].tolist() == [0.25, 0.0]
    assert batch.game[order].tolist() == [True, False]
    assert {x.dtype for x in (batch.label_probability, batch.chosen_wins, batch.rejected_wins)} == {torch.float64}
    assert (batch.counts().game, batch.counts().human) == (1, 1)


def test_who_does_not_ask_does_not_stumble_over_them(tmp_path, make):
    broken = {**ROW, "label_probability": 7, "p_chosen": "?", "p_win_chosen": -1, "source": "the web"}
    method = Method()
    data = make(validation=write(tmp_path / "rows.jsonl", [broken]))
    trainer(tmp_path).validate(method, data, verbose=False)
    [batch] = method.validated
    assert (batch.label_probability, batch.chosen_wins, batch.rejected_wins, batch.game) == (None,) * 4
    assert batch.counts().game == 0
    assert "not read: label_probability, p_chosen, p_win_chosen, source" in data.reports["validation"].format


@pytest.mark.parametrize("name", ["label_probability", "p_label", "p_chosen", "preference_probability"])
def test_the_probability_of_a_label_has_several_names(tmp_path, make, name):
    [example] = read(tmp_path, make, [{**ROW, name: 0.3}], Asking("label_probability"))
    assert example.label_probability == 0.3


def test_columns_of_other_names_are_mapped(tmp_path, make):
    rows = [{**ROW, "wins": 0.9, "loses": 0.2, "source": "self", "kind": "human"}]
    columns = {"p_win_chosen": "wins", "p_win_rejected": "loses", "source": "kind"}
    [example] = read(tmp_path, make, rows, Asking("win_probabilities", "source"), columns=columns)
    assert (example.win_probabilities, example.game) == ([0.9, 0.2], False)


@pytest.mark.parametrize(
    ("needed", "broken", "field", "what"),
    [
        ("label_probability", {"label_probability": 1.01}, "label_probability", "not between 0 and 1"),
        ("label_probability", {"label_probability": -0.1}, "label_probability", "not between 0 and 1"),
        ("label_probability", {"label_probability": "sure"}, "label_probability", "expected a number"),
        ("label_probability", {"label_probability": True}, "label_probability", "expected a number"),
        ("label_probability", {"label_probability": None}, "label_probability", "needs the label probability"),
        ("label_probability", {"p_label": 0.8}, "p_label", "two columns have the probability"),
        ("win_probabilities", {"p_win_rejected": 1.5}, "p_win_rejected", "not between 0 and 1"),
        ("win_probabilities", {"p_win_rejected": None}, "p_win_rejected", "null"),
        ("win_probabilities", {"p_win_chosen": 0.1}, "p_win_chosen", "wins less often"),
        ("win_probabilities", {"p_win_chosen": None, "p_win_rejected": None}, "p_win_chosen", "the win probabilities"),
        ("source", {"source": "self"}, "source", "unknown source"),
        ("source", {"source": 1}, "source", "expected a text"),
        ("source", {"source": ""}, "source", "needs the source"),
    ],
)
def test_broken_rows_are_named(tmp_path, make, needed, broken, field, what):
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, [WHOLE, {**WHOLE, **broken}], Asking(needed))
    error = caught.value
    assert (error.row, error.field) == (2, field)
    assert what in error.what
    assert error.fix
    assert len(read(tmp_path, make, [WHOLE, {**WHOLE, **broken}], Asking(needed), on_bad_row="drop")) == 1


def test_even_probabilities_are_none_to_refuse(tmp_path, make):
    row = {**ROW, "label_probability": 0.5, "p_win_chosen": 0.5, "p_win_rejected": 0.5}
    assert len(read(tmp_path, make, [row], Asking("label_probability", "win_probabilities"))) == 1


@pytest.mark.parametrize(
    ("name", "needed"),
    [("SoftDPO", "label probability"), ("SPPO", "win probabilities"), ("AdversarialReward", "source")],
)
def test_methods_that_need_them_refuse_rows_without(tmp_path, make, name, needed):
    method = getattr(lit_align, name)(policy="unused")
    with pytest.raises(DataError, match=f"{name} needs the {needed} of every pair"):
        read(tmp_path, make, [ROW], method)


def test_ranked_responses_have_none(tmp_path, make):
    rows = [{"prompt": "Q?", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}]
    with pytest.raises(DataError, match="needs the win probabilities"):
        read(tmp_path, make, rows, Asking("win_probabilities"), convert="all_pairs")
