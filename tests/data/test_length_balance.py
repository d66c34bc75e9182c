"""Pairs balanced in length: the weights of the specification, bins, draws, and what training sees of it."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.length_balance import LONE, THINNED, balance, balance_examples, quantile_edges, thin_out
from lit_align.data.store import ExampleStore, Record
from tests.data.modules import QUIET, Method, fit, write

pytestmark = QUIET


class Weighing(Method):
    """Reads weights."""

    reads = ("weight",)


def pair(row, chosen, rejected, **more):
    ids = [[1] + [9] * chosen, [1] + [8] * rejected]
    return Example(row, ids, [1, 1], **{"pairs": [(0, 1)], **more})


def store(*examples):
    return ExampleStore.from_records([Record(example, example.row) for example in examples])


def share_longer(differences, weights):
    longer = sum(weight for d, weight in zip(differences, weights, strict=True) if d > 0)
    return longer / sum(weight for d, weight in zip(differences, weights, strict=True) if d)


def test_weights_of_the_specification(shared_dir):
    vectors = json.loads((shared_dir / "vectors/onpolicy.json").read_text())
    [vector] = [vector for vector in vectors if vector["id"] == "rm_length_bias"]
    differences = vector["inputs"]["delta_len_chosen_minus_rejected"]
    edges = vector["hyperparameters"]["abs_delta_bin_edges"][1:-1]
    result = balance(differences, edges)
    assert result.weights == pytest.approx(vector["expected"]["resample_weights"])
    assert sum(result.weights) == pytest.approx(vector["expected"]["expected_kept"])
    assert share_longer(differences, [1] * len(differences)) == vector["expected"]["frac_chosen_longer_before"]
    assert share_longer(differences, result.weights) == pytest.approx(vector["expected"]["frac_chosen_longer_after"])
    assert result.lone == [3, 6]
    drawn = thin_out(differences, edges, seed=0)
    assert sum(drawn.weights) == vector["expected"]["expected_kept"]
    assert drawn.lone == [3, 6]


def test_equal_lengths_keep_their_weight():
    assert balance([0, 0, 3], [2.0]).weights == [1.0, 1.0, 0.0]
    assert balance([0, 0], quantile_edges([0, 0])).weights == [1.0, 1.0]
    assert thin_out([0, 5, -5, 5], [], seed=3).weights[0] == 1.0


def test_bins_hold_equally_many():
    differences = [(-1) ** (n % 3) * n for n in range(1, 101)]
    edges = quantile_edges(differences)
    assert edges == pytest.approx([20.8, 40.6, 60.4, 80.2])
    assert quantile_edges([2, -2, 2, 2]) == []
    assert quantile_edges([1, 1, 1, 1, 9]) == pytest.approx([2.6])


@pytest.mark.parametrize("seed", range(5))
def test_draws_balance_every_bin(seed):
    differences = [n if n % 4 else -n for n in range(1, 200)]
    edges = quantile_edges(differences)
    result = thin_out(differences, edges, seed)
    assert set(result.weights) == {0.0, 1.0}
    for low, high in zip([0, *edges], [*edges, 1000], strict=True):
        members = [n for n, d in enumerate(differences) if low <= abs(d) < high]
        sides = [sum(result.weights[n] for n in members if (differences[n] > 0) is longer) for longer in (True, False)]
        assert sides[0] == sides[1] == sum(differences[n] < 0 for n in members)
    assert thin_out(differences, edges, seed) == result
    assert thin_out(differences, edges, seed + 1) != result


EXAMPLES = [pair(1, 5, 2), pair(2, 6, 3), pair(3, 7, 4), pair(4, 2, 5), pair(5, 4, 4), pair(6, 40, 2)]
"""In one bin three are longer and one is shorter; one is alone in its bin; one has equal lengths."""


def test_weights_average_1_over_the_pairs_that_are_kept():
    result = balance_examples(store(*EXAMPLES), "weight", 0)
    examples = list(result.examples)
    assert [example.row for example in examples] == [1, 2, 3, 4, 5]
    weights = [example.weights[0] for example in examples]
    assert fmean(weights) == pytest.approx(1)
    assert weights == pytest.approx([5 / 9, 5 / 9, 5 / 9, 5 / 3, 5 / 3])
    assert result.left_out == [(6, LONE)]
    assert "of 6 pairs 5 kept, 1 without a counterpart" in result.note
    assert "longer in 80 % before, 50 % after" in result.note


def test_weights_of_the_data_are_multiplied():
    given = [pair(1, 5, 2, weights=[3.0]), pair(2, 2, 5), pair(3, 5, 5, weights=[0.0])]
    result = balance_examples(store(*given), "weight", 0)
    assert [example.weights for example in result.examples] == [[2.25], [0.75], [0.0]]


def test_pairs_of_one_example_are_balanced_one_by_one():
    """Those that go take their margins along; responses stay."""
    several = pair(7, 5, 2, pairs=[(0, 1), (1, 0), (0, 1)], margins=[1.0, 2.0, 3.0])
    for how, kept in (("weight", 3), ("downsample", 2)):
        result = balance_examples(store(several), how, 0)
        [example] = result.examples
        assert len(example.pairs) == len(example.margins) == kept
        assert (2.0, (1, 0)) in zip(example.margins, example.pairs, strict=True)
        assert len(example.ids) == 2
        assert (example.weights is None) == (how == "downsample")
    assert result.left_out == [(7, THINNED)]


def test_masked_tokens_do_not_count():
    masked = pair(1, 5, 2, masks=[[0, 0, 0, 1, 1], [1, 1]])
    assert store(masked, pair(2, 3, 1)).completion_lengths == [[2, 2], [3, 1]]


def test_nothing_left_is_an_error(tmp_path, make):
    with pytest.raises(DataError, match="leaves no pair"):
        balance_examples(store(pair(1, 5, 2), pair(2, 6, 2)), "downsample", 0)
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Q?", "chosen": "yes", "rejected": "no"}])
    with pytest.raises(DataError) as caught:
        make(path, balance_lengths="downsample").examples("train", DataKind.PAIRS)
    assert caught.value.file == path
    with pytest.raises(DataError, match="weight 0"):
        balance_examples(store(pair(1, 5, 5, weights=[0.0])), "weight", 0)


# ---------------------------------------------------------------- in training

ROWS = [{"prompt": f"Q{n}?", "chosen": " " + "y" * (9 if n % 4 else 3), "rejected": " " + "n" * 6} for n in range(24)]


def test_training_sees_balanced_pairs_and_validation_all(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", ROWS)
    data = make(path, validation=path, balance_lengths="downsample")
    method = fit(tmp_path, data)
    rows = [row for seen in method.seen for row in seen[2]]
    longer = [row for row in rows if (row - 1) % 4]
    assert len(rows) == 2 * len(longer) == 12
    assert sum(len(batch.chosen) for batch in method.validated) == 24
    report = data.reports["train"].to_dict()
    assert report["left_out"][THINNED]["total"] == 12
    assert any("lengths balanced (downsample)" in note for note in report["notes"])
    assert not data.reports["validation"].left_out
    again = make(path, balance_lengths="downsample")
    assert [e.row for e in again.examples("train", DataKind.PAIRS)] == sorted(rows)
    other = make(path, balance_lengths="downsample", split_seed=1)
    assert [e.row for e in other.examples("train", DataKind.PAIRS)] != sorted(rows)


class Noting(Weighing):
    """Notes the weights."""

    def __init__(self):
        super().__init__()
        self.weights = {}

    def training_step(self, batch, batch_idx):
        self.weights |= dict(zip(batch.source_rows.tolist(), batch.weight.tolist(), strict=True))
        return super().training_step(batch, batch_idx)


def test_weights_reach_the_batches(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", ROWS)
    method = fit(tmp_path, make(path, balance_lengths="weight"), Noting())
    assert len(method.weights) == 24
    assert fmean(method.weights.values()) == pytest.approx(1)
    assert {round(weight, 6) for row, weight in method.weights.items() if (row - 1) % 4} == {round(2 / 3, 6)}
    assert {round(weight, 6) for row, weight in method.weights.items() if not (row - 1) % 4} == {2.0}


def test_a_split_is_balanced_after_it(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", ROWS)
    plain, own = make(path, val_split=8), make(path, val_split=8, balance_lengths="downsample")
    kinds = DataKind.PAIRS
    held_out = [example.row for example in own.examples("validation", kinds)]
    assert held_out == [example.row for example in plain.examples("validation", kinds)]
    training = {example.row for example in own.examples("train", kinds)}
    assert training < {example.row for example in plain.examples("train", kinds)}
    assert own.fingerprint("train") != plain.fingerprint("train")
    assert own.fingerprint("validation") == plain.fingerprint("validation")


@pytest.mark.parametrize(
    ("method", "settings", "what"),
    [
        (Method(), {"balance_lengths": "weight"}, "Method does not weigh pairs"),
        (
            Method(DataKind.UNPAIRED),
            {"balance_lengths": "downsample", "convert": "pairs_to_unpaired"},
            "something else",
        ),
        (Weighing(), {"balance_lengths": "weight", "streaming": True}, "streamed pairs"),
    ],
)
def test_what_cannot_be_balanced_is_refused_before_anything_is_read(tmp_path, make, method, settings, what):
    path = write(tmp_path / "rows.jsonl", [{"nothing": "of use"}])
    with pytest.raises(ConfigError, match=what) as caught:
        fit(tmp_path, make(path, **settings), method)
    assert "data.balance_lengths" in str(caught.value)
    assert caught.value.fix
