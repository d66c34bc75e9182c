"""What methods ask of their data besides the kind: fields of every row, columns on request, labels of one kind."""

from __future__ import annotations

import datetime

import pytest

import lit_align
from lit_align.core.batch import DataKind
from lit_align.core.demand import Demand
from lit_align.core.errors import DataError
from lit_align.data.demands import Demands, demands_of
from lit_align.data.fields import parse_date
from tests.data.modules import QUIET, Method, fit, trainer, write
from tests.data.reading import assistant, user

pytestmark = QUIET

ROW = {"prompt": "Q?", "chosen": " yes", "rejected": " no"}
WHOLE = {**ROW, "score_chosen": 0.75, "score_rejected": 0.5, "timestamp": 3}


class Asking(Method):
    """Needs what a test says."""

    def __init__(self, fields=(), *, target=False, both_labels=True, kind=DataKind.PAIRS):
        super().__init__(kind)
        self.needs_fields = frozenset(fields)
        self.reads_target = target
        self.needs_both_labels = both_labels


def batches(tmp_path, data, method):
    trainer(tmp_path).validate(method, data, verbose=False)
    return method.validated


def test_scores_and_timestamps_reach_the_batches(tmp_path, make):
    rows = [{**WHOLE, "timestamp": n, "score_chosen": 1 + n} for n in range(6)]
    path = write(tmp_path / "rows.jsonl", rows)
    method = Asking(("margin", "scores", "timestamp"))
    for batch in batches(tmp_path, make(validation=path), method):
        numbers = (batch.source_rows - 1).double()
        assert batch.timestamp.tolist() == numbers.tolist()
        assert batch.chosen_scores.tolist() == (numbers + 1).tolist()
        assert batch.rejected_scores.tolist() == [0.5] * len(numbers)
        assert batch.margin.tolist() == (numbers + 0.5).tolist()


def test_scores_of_ranked_responses_go_with_their_pairs(tmp_path, make):
    rows = [{"prompt": "Q?", "responses": ["a", "b", "c"], "scores": [1, 3, 2], "timestamp": "2024-05-31"}]
    path = write(tmp_path / "rows.jsonl", rows)
    data = make(validation=path, convert="all_pairs")
    [batch] = batches(tmp_path, data, Asking(("scores", "timestamp")))
    assert batch.chosen_scores.tolist() == [3.0, 3.0, 2.0]
    assert batch.rejected_scores.tolist() == [2.0, 1.0, 1.0]
    assert batch.timestamp.tolist() == [parse_date("2024-05-31")] * 3


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("needed", "without", "field", "hint"),
    [
        ("margin", ("score_chosen", "score_rejected"), "margin", "score_chosen"),
        ("scores", ("score_chosen",), "score_chosen", "data.columns"),
        ("timestamp", ("timestamp",), "timestamp", "2024-05-31"),
    ],
)
def test_the_first_row_that_lacks_something_is_named(tmp_path, make, streaming, needed, without, field, hint):
    broken = {name: value for name, value in WHOLE.items() if name not in without}
    path = write(tmp_path / "rows.jsonl", [WHOLE, broken, WHOLE, broken])
    fit(tmp_path, make(path, streaming=streaming))
    with pytest.raises(DataError) as caught:
        fit(tmp_path, make(path, streaming=streaming), Asking([needed]))
    error = caught.value
    assert (error.file, error.row, error.field) == (path, 2, field)
    assert f"Asking needs the {needed}" in error.what
    assert hint in error.fix


def test_rows_that_lack_something_can_be_dropped(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [WHOLE, ROW])
    data = make(validation=path, on_bad_row="drop")
    [batch] = batches(tmp_path, data, Asking(["timestamp"]))
    assert batch.source_rows.tolist() == [1]
    assert [tally.rows for tally in data.reports["validation"].dropped.values()] == [[2]]


def test_what_a_method_needs_is_part_of_the_key(tmp_path, make):
    """Examples that another method has made do not hide what is missing."""
    path = write(tmp_path / "rows.jsonl", [ROW])
    fit(tmp_path, make(path))
    with pytest.raises(DataError, match="needs the margin"):
        fit(tmp_path, make(path), Asking(["margin"]))


# ---------------------------------------------------------------- numbers that a method cannot use

SCORED = {"prompt": "Q?", "completion": " yes"}
RANKED = {"prompt": "Q?", "responses": [" a", " b"]}


def built(name, **settings):
    return getattr(lit_align, name)(policy="unused", **settings)


@pytest.mark.parametrize(
    ("method", "good", "bad", "field", "value", "wanted", "fix"),
    [
        (built("ODPO"), {**ROW, "margin": 0.1}, {**ROW, "margin": 0}, "margin", 0, "margins above 0", "identity"),
        (built("ODPO"), {**ROW, "margin": 1}, {**ROW, "margin": -0.25}, "margin", -0.25, "margins above 0", "drop"),
        (built("ODPO", offset="ratio"), WHOLE, {**WHOLE, "score_rejected": -1}, "score_rejected", -1,
         "scores above 0", "identity"),
        (built("UNAScore"), {**SCORED, "score": 0}, {**SCORED, "score": 1.5}, "score", 1.5, "from 0 to 1", "raw"),
        (built("UNAScore", score_range=(1, 5)), {**SCORED, "score": 5}, {**SCORED, "score": 0.5}, "score", 0.5,
         "from 1 to 5", "score_range"),
        (built("LiPO", reward_temperature=None), {**RANKED, "scores": [0, 1]}, {**RANKED, "scores": [0.5, 2]},
         "scores[1]", 2, "from 0 to 1", "reward_temperature"),
        (built("SLiCHF", reg_target="best"), {**ROW, "target": " so"}, ROW, "target", "null", "the target",
         "data.convert"),
    ],
)  # fmt: skip
def test_numbers_that_a_method_cannot_use_are_found_when_they_are_read(
    tmp_path, make, method, good, bad, field, value, wanted, fix
):
    path = write(tmp_path / "rows.jsonl", [good, bad, good])
    data = make(path)
    data.sets.method = method
    with pytest.raises(DataError) as caught:
        data.examples("train")
    error = caught.value
    assert (error.file, error.row, error.field, error.value) == (path, 2, field, value)
    assert wanted in error.what
    assert fix in error.fix
    data = make(path, on_bad_row="drop")
    data.sets.method = method
    assert [example.row for example in data.examples("train")] == [1, 3]
    assert [tally.rows for tally in data.reports["train"].dropped.values()] == [[2]]


@pytest.mark.parametrize(
    ("method", "row"),
    [
        (built("ODPO", offset="identity"), {**ROW, "margin": -1}),
        (built("UNAScore", loss="raw"), {**SCORED, "score": 7}),
        (built("LiPO"), {**RANKED, "scores": [-3, 9]}),
        (built("SLiCHF"), ROW),
    ],
)
def test_other_arguments_take_them(tmp_path, make, method, row):
    """They are part of the key: what one method has read does not hide what another cannot use."""
    path = write(tmp_path / "rows.jsonl", [row])
    data = make(path)
    data.sets.method = method
    assert len(data.examples("train")) == 1
    refusing = {"UNAScore": {}, "LiPO": {"reward_temperature": None}, "SLiCHF": {"reg_target": "best"}, "ODPO": {}}
    name = type(method).__name__
    data = make(path)
    data.sets.method = built(name, **refusing[name])
    with pytest.raises(DataError):
        data.examples("train")


def test_a_quotient_needs_scores_where_a_difference_needs_a_margin(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{**ROW, "margin": 1}])
    for offset, found in (("log", 1), ("ratio", None)):
        data = make(path)
        data.sets.method = built("ODPO", offset=offset)
        if found:
            assert len(data.examples("train")) == found
            continue
        with pytest.raises(DataError, match="ODPO needs the scores of every pair"):
            data.examples("train")


def test_ranges_in_words():
    assert Demand("scores", 1.0, 5.0).wanted == "from 1 to 5"
    assert Demand("margin", 0.0, strict=True).wanted == "above 0"
    assert [Demand("scores", 0.0, 1.0).allows(x) for x in (-0.1, 0.0, 1.0, 1.1)] == [False, True, True, False]
    assert not Demand("scores", 0.0, strict=True).allows(0.0)
    assert not Demand("scores", 0.0, 1.0).allows(float("nan"))


# ---------------------------------------------------------------- timestamps


@pytest.mark.parametrize(
    ("given", "days"),
    [
        ("1970-01-02", 1.0),
        ("1970-01-01T06:00:00", 0.25),
        ("1970-01-01 00:00:01.5", 1.5 / 86400),
        ("1970-01-01T00:00:10Z", 10 / 86400),
        ("1970-01-01T02:00:00+02:00", 0.0),
        (datetime.date(1970, 1, 2), 1.0),
        (datetime.datetime(1970, 1, 1, 12, tzinfo=datetime.timezone.utc), 0.5),
        ("19700102", None),
        ("7", None),
        (7, None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_dates(given, days):
    assert parse_date(given) == days


@pytest.mark.parametrize("given", [3, 3.0, "3"])
def test_numbers_stay_as_they_are(tmp_path, make, given):
    path = write(tmp_path / "rows.jsonl", [{**ROW, "timestamp": given}])
    assert make(path).examples("train", DataKind.PAIRS)[0].timestamp == 3.0


@pytest.mark.parametrize(
    ("first", "odd", "what"),
    [
        (1, "2024-05-31", "expected a number"),
        (1, "soon", "expected a number"),
        (1, float("nan"), "not finite"),
        ("2024-05-31", 5, "not a date"),
        ("2024-05-31", "soon", "not a date"),
    ],
)
def test_a_timestamp_of_another_sort_is_refused(tmp_path, make, first, odd, what):
    """Numbers and dates have different units: one file holds the one or the other."""
    path = write(tmp_path / "rows.jsonl", [{**ROW, "timestamp": first}] * 2 + [{**ROW, "timestamp": odd}])
    with pytest.raises(DataError, match=what) as caught:
        make(path).examples("train", DataKind.PAIRS)
    assert (caught.value.row, caught.value.field) == (3, "timestamp")
    assert "a date like 2024-05-31" in caught.value.fix


def test_who_does_not_ask_for_timestamps_does_not_stumble_over_them(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{**ROW, "timestamp": "some day", "target": 7}])
    data = make(validation=path)
    [batch] = batches(tmp_path, data, Method())
    assert (batch.timestamp, batch.target) == (None, None)
    assert "not read: timestamp, target" in data.reports["validation"].format


# ---------------------------------------------------------------- targets


def test_targets_are_read_for_those_who_ask(tmp_path, make):
    rows = [{**ROW, "target": " maybe"}, ROW, {**ROW, "target": ""}]
    path = write(tmp_path / "rows.jsonl", rows)
    data = make(validation=path)
    [batch] = batches(tmp_path, data, Asking(target=True))
    chosen = batch.chosen.tolist()
    number = batch.source_rows.tolist().index(1)
    expected = list(chosen)
    expected[number] = chosen[number] + 2
    assert batch.target.tolist() == expected
    scored = batch.rows.target[batch.rows.response == expected[number]].tolist()
    assert data.tokenizer.decode(scored) == " maybe</s>"


@pytest.mark.parametrize("target", ["Well.", [assistant("Well.")]])
def test_targets_of_conversations_and_of_ranked_responses(tmp_path, make, target):
    talk = {"prompt": [user("Hi")], "chosen": [assistant("Yo")], "rejected": [assistant("Go")], "target": target}
    ranked = {"prompt": [user("Hi")], "responses": ["a", "b", "c"], "scores": [1, 2, 3], "target": target}
    for name, row, count in (("talk", talk, 2), ("ranked", ranked, 3)):
        data = make(validation=write(tmp_path / f"{name}.jsonl", [row]), convert="all_pairs")
        data.sets.method = Asking(target=True)
        [example] = data.examples("validation")
        assert (example.target, len(example.ids)) == (count, count + 1)
        assert data.tokenizer.decode(example.ids[count]).endswith("Well.</s>")


def test_a_target_that_the_user_speaks(tmp_path, make):
    row = {"prompt": [user("Hi")], "chosen": [assistant("Yo")], "rejected": [assistant("Go")], "target": [user("x")]}
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError) as caught:
        fit(tmp_path, make(path), Asking(target=True))
    assert (caught.value.row, caught.value.field) == (1, "target[0]")


@pytest.mark.parametrize("convert", ["best_worst", "all_pairs", "adjacent_pairs", "random_pairs", "tournament_pairs"])
def test_the_best_of_ranked_responses_becomes_the_target_if_asked_for(tmp_path, make, convert):
    row = {"prompt": "Q?", "responses": [" a", " b", " c", " d"], "scores": [1, 2, 4, 3], "target": " other"}
    path = write(tmp_path / "rows.jsonl", [row])
    found = {}
    for reg_target in ("reference", "best"):
        data = make(path, convert=convert)
        data.sets.method = built("SLiCHF", reg_target=reg_target)
        [example] = data.examples("train")
        text = data.tokenizer.decode(example.ids[example.target][example.prompt_lengths[example.target] :])
        found[reg_target] = text, len(example.ids)
    assert (found["reference"][0], found["best"][0]) == (" other</s>", " c</s>")
    # A target that is one of the responses is not scored a second time.
    in_a_pair = convert != "random_pairs" or found["best"][1] < found["reference"][1]
    assert found["best"][1] == found["reference"][1] - in_a_pair


def test_a_best_response_that_is_in_no_pair(tmp_path, make):
    """Rejection sampling and draws may leave it out; it is scored all the same."""
    row = {"prompt": "Q?", "responses": [" a", " b", " c", " d"], "scores": [1, 2, 4, 3]}
    path = write(tmp_path / "rows.jsonl", [row] * 12)
    data = make(path, convert="random_pairs", convert_args={"num_pairs": 1})
    data.sets.method = built("SLiCHF", reg_target="best")
    examples = list(data.examples("train"))
    lengths = set()
    for example in examples:
        lengths.add(len(example.ids))
        assert data.tokenizer.decode(example.ids[example.target]).endswith(" c</s>")
    assert lengths == {2, 3}


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("streaming", [False, True])
def test_one_label_is_enough_for_some(tmp_path, make, streaming):
    rows = [{"prompt": f"{n}", "completion": "x", "label": False} for n in range(4)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="all 4 labels are the same"):
        fit(tmp_path, make(path, streaming=streaming), Asking(kind=DataKind.UNPAIRED))
    method = fit(tmp_path, make(path, streaming=streaming), Asking(kind=DataKind.UNPAIRED, both_labels=False))
    assert sorted(row for seen in method.seen for row in seen[2]) == [1, 2, 3, 4]


def test_a_split_may_leave_one_label_for_some(tmp_path, make):
    rows = [{"prompt": f"{n}", "completion": "x", "label": n == 3} for n in range(4)]
    path = write(tmp_path / "rows.jsonl", rows)
    for seed in range(9):
        data = make(path, val_split=1, split_seed=seed)
        data.sets.method = Asking(kind=DataKind.UNPAIRED, both_labels=False)
        assert len(data.examples("train")) == 3


def test_only_what_a_method_learns_from_is_looked_at():
    method = Asking(["margin"], target=True)
    assert demands_of(method, DataKind.PROMPTS) == demands_of(method, None) == Demands()
    assert demands_of(method, DataKind.PAIRS) == Demands(("margin",), ("target",))
    method.reads = ("timestamp",)
    assert demands_of(method, DataKind.PAIRS).columns == ("timestamp", "target")
    assert demands_of(None, DataKind.PAIRS).fields == ()
    with pytest.raises(AssertionError, match="magrin"):
        demands_of(Asking(["magrin"]), DataKind.PAIRS)
