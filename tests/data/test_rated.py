"""Completions with ratings of several attributes: in columns or in an object, with nulls, in the method's order."""

from __future__ import annotations

import math

import pytest
import torch

from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import NO_RATING
from lit_align.data.collate import Collator, Drawn
from tests.data.modules import QUIET, Method, fit, write
from tests.data.reading import assistant, user

pytestmark = QUIET

RATED = DataKind.RATED
HELPSTEER = {"prompt": "Q?", "response": " yes", "helpfulness": 4, "correctness": 3.5, "coherence": 4,
             "complexity": 1, "verbosity": 0}  # fmt: skip
OBJECT = {"prompt": "Q?", "completion": " yes", "ratings": {"humour": 2, "style": None}}


class Rating(Method):
    """Learns attributes."""

    def __init__(self, *names):
        super().__init__(RATED)
        self.rating_names = names


def read(tmp_path, make, rows, *names, kind=RATED, **settings):
    data = make(write(tmp_path / "rows.jsonl", rows), **settings)
    data.sets.method = Rating(*names) if names else None
    return data, data.examples("train", kind)


def refused(tmp_path, make, rows, *names, **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, make, rows, *names, **settings)
    assert caught.value.fix
    return caught.value


def plain(ratings):
    return [None if math.isnan(rating) else rating for rating in ratings]


@pytest.mark.parametrize(
    ("row", "names", "ratings"),
    [
        (HELPSTEER, (), [4, 3.5, 4, 1, 0]),
        (HELPSTEER, ("verbosity", "helpfulness"), [0, 4]),
        ({**HELPSTEER, "helpfulness": None}, ("helpfulness", "verbosity"), [None, 0]),
        ({"prompt": "Q?", "completion": " yes", "humour": "2"}, ("humour",), [2]),
        (OBJECT, (), [2, None]),
        (OBJECT, ("style", "humour", "tone"), [None, 2, None]),
        ({"prompt": "Q?", "response": " yes", "labels": '{"humour": 2}'}, ("humour",), [2]),
    ],
)
def test_the_methods_attributes_in_its_order(tmp_path, make, row, names, ratings):
    # A further row rates all that is to be learnt.
    whole = {**row, **(dict.fromkeys(names, 1) if "helpfulness" in row else {"ratings": dict.fromkeys(names, 1)})}
    rows = [row, {**whole, "prompt": "R?"}] if None in ratings and names else [row]
    data, examples = read(tmp_path, make, rows, *names)
    assert plain(examples[0].ratings) == ratings
    assert data.tokenizer.decode(examples[0].ids[0]) == "Q? yes</s>"


def test_columns_are_named_in_the_report_and_may_be_mapped(tmp_path, make):
    data, _ = read(tmp_path, make, [HELPSTEER], "helpfulness")
    text = data.reports["train"].format
    assert "columns: prompt, response, helpfulness; not read: correctness" in text
    data, _ = read(tmp_path, make, [HELPSTEER, {**HELPSTEER, "verbosity": None}], "helpfulness", "verbosity")
    assert "\n  ratings: 2 helpfulness, 1 verbosity" in data.reports["train"].to_text()
    rows = [{"prompt": "Q?", "response": "a", "how funny": 3}]
    _, [example] = read(tmp_path, make, rows, "humour", columns={"humour": "how funny"})
    assert example.ratings == [3.0]


def test_conversations_are_rated(tmp_path, make):
    rows = [{**HELPSTEER, "prompt": [user("Hi")], "response": [assistant("Yo")]}]
    data, [example] = read(tmp_path, make, rows)
    assert data.tokenizer.decode(example.ids[0]).endswith("Hi<|assistant|>\nYo</s>")


def test_rows_without_a_rating_are_dropped_and_counted(tmp_path, make):
    rows = [OBJECT, {**OBJECT, "ratings": {"humour": None}}, {**OBJECT, "ratings": {}}, {**OBJECT, "ratings": None}]
    data, examples = read(tmp_path, make, rows, "humour")
    assert [example.row for example in examples] == [1]
    assert data.reports["train"].dropped[NO_RATING].rows == [2, 3, 4]
    assert refused(tmp_path, make, rows, "humour", on_no_preference="error").row == 2
    rows = [HELPSTEER, {**HELPSTEER, "coherence": None}]
    data, _ = read(tmp_path, make, rows, "coherence")
    assert data.reports["train"].dropped[NO_RATING].rows == [2]


@pytest.mark.parametrize(
    ("broken", "field", "what"),
    [
        ({"helpfulness": "good"}, "helpfulness", "expected a number, found a text"),
        ({"helpfulness": True}, "helpfulness", "expected a number, found true/false"),
        ({"helpfulness": math.nan}, "helpfulness", "not finite"),
        ({"response": ""}, "response", "empty"),
    ],
)
def test_broken_rows_are_named(tmp_path, make, broken, field, what):
    error = refused(tmp_path, make, [HELPSTEER, {**HELPSTEER, **broken}])
    assert (error.row, error.field) == (2, field)
    assert what in error.what
    _, examples = read(tmp_path, make, [HELPSTEER, {**HELPSTEER, **broken}], on_bad_row="drop")
    assert [example.row for example in examples] == [1]


def test_a_text_in_an_object_is_named(tmp_path, make):
    error = refused(tmp_path, make, [OBJECT, {**OBJECT, "ratings": {"humour": "much"}}])
    assert (error.row, error.field) == (2, "ratings.humour")


def test_missing_and_misspelt_attributes_are_named(tmp_path, make):
    without = {name: value for name, value in HELPSTEER.items() if name != "verbosity"}
    error = refused(tmp_path, make, [without], "helpfulness", "verbosity")
    assert (error.field, "learn helpfulness only" in error.fix) == ("verbosity", True)
    error = refused(tmp_path, make, [{**without, "verbosety": 1}], "helpfulness", "verbosity")
    assert (error.field, "verbosity" in error.what) == ("verbosety", True)


def test_an_attribute_that_no_row_rates_is_named(tmp_path, make):
    error = refused(tmp_path, make, [OBJECT, OBJECT], "humour", "stile")
    assert (error.field, error.value, "learn humour only" in error.fix) == ("stile", "ratings of humour", True)
    _, [example] = read(tmp_path, make, [OBJECT], "humour", "stile", kind=DataKind.RESPONSES)
    assert example.ratings[0] == 2


def test_other_kinds_are_no_ratings(tmp_path, make):
    rows = [{"prompt": "Q?", "chosen": "a", "rejected": "b"}]
    with pytest.raises(ConfigError, match="learns from rated completions"):
        read(tmp_path, make, rows, "helpfulness")


def test_labels_that_are_no_object_are_still_misspelt(tmp_path, make):
    rows = [{"prompt": "Q?", "completion": "a", "labels": True}]
    error = refused(tmp_path, make, rows, kind=DataKind.UNPAIRED)
    assert "almost like 'label'" in error.what


def test_other_attributes_are_other_examples(tmp_path, make):
    """They share the cache."""
    for names in (("helpfulness",), ("verbosity", "complexity")):
        _, [example] = read(tmp_path, make, [HELPSTEER], *names)
        assert len(example.ratings) == len(names)


@pytest.mark.parametrize("layout", list(Layout))
def test_batches_hold_a_table_with_nan(tmp_path, make, layout):
    _, examples = read(tmp_path, make, [OBJECT, {**OBJECT, "ratings": {"humour": 1, "style": 5}}])
    batch = Collator(RATED, layout)(Drawn(list(examples)))
    assert [plain(row) for row in batch.ratings.tolist()] == [[2, None], [1, 5]]
    assert batch.ratings.dtype == torch.float64
    assert batch.counts()[:2] == (2, 3)


@pytest.mark.parametrize("streaming", [False, True])
def test_windows_count_ratings(tmp_path, make, streaming):
    rows = [{**OBJECT, "ratings": {"humour": n, "style": n if n % 2 else None}} for n in range(9)]
    path = write(tmp_path / "rows.jsonl", rows)
    method = fit(
        tmp_path, make(path, batch_size=2, streaming=streaming), Rating("humour", "style"), accumulate_grad_batches=2
    )
    for first in range(0, len(method.seen), 2):
        window = method.seen[first : first + 2]
        numbers = [row - 1 for seen in window for row in seen[2]]
        assert all(seen[3][:2] == (len(numbers), sum(1 + n % 2 for n in numbers)) for seen in window)


def test_rated_rows_can_be_scored(tmp_path, make):
    """By any method; by one of attributes also where these are columns of other names."""
    _, [example] = read(tmp_path, make, [HELPSTEER], kind=DataKind.RESPONSES)
    assert len(example.ids) == 1
    rows = [{"prompt": "Q?", "response": " yes", "humour": 2}]
    _, [example] = read(tmp_path, make, rows, "humour", kind=DataKind.RESPONSES)
    assert example.ratings == [2.0]
