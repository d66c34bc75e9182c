"""The data module in a trainer: stages, kinds and conversions, reports, cached reference values."""

from __future__ import annotations

import json

import pytest

from lit_align.core.batch import DataKind, LabelBatch, PairBatch, PromptBatch
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.module import PreferenceDataModule
from tests.data.modules import KTO, QUIET, Method, fit, pair_rows, rows_of, trainer, write

pytestmark = QUIET

# ---------------------------------------------------------------- stages


def test_fit_sees_every_row_once_per_epoch_in_another_order(tmp_path, make, pairs):
    method = fit(tmp_path, make(pairs), max_epochs=2, accumulate_grad_batches=3)
    epochs = [[seen for seen in method.seen if seen[0] == epoch] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(row for seen in epoch for row in seen[2]) == list(range(1, 27))
        assert [seen[3].examples for seen in epoch[:3]] == [sum(len(seen[2]) for seen in epoch[:3])] * 3
        assert epoch[-1][3].examples == len(epoch[-1][2])
    assert [seen[2] for seen in epochs[0]] != [seen[2] for seen in epochs[1]]


@pytest.mark.parametrize("streaming", [False, True])
def test_overfitting_sees_the_same_few_rows_again_and_again(tmp_path, make, pairs, streaming):
    data = make(pairs, validation=pairs, streaming=streaming)
    settings = {"max_steps": 6} if streaming else {}
    method = fit(tmp_path, data, max_epochs=3, overfit_batches=2, **settings)
    assert [(epoch, rows) for epoch, _, rows, _, _ in method.seen] == [
        (epoch, rows) for epoch in range(3) for rows in ([1, 2, 3, 4], [5, 6, 7, 8])
    ]
    assert len(method.validated) == 3 * 2


def test_the_report_is_printed_and_saved(tmp_path, make, pairs, capsys):
    fit(tmp_path, make(pairs, val_split=0.25))
    printed = capsys.readouterr().out
    assert "train and validation: " in printed
    assert "26 read, 26 kept" in printed
    assert "split by prompt: 20 examples to learn from, 6 held out" in printed
    saved = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert set(saved) == {"train", "validation"}
    assert saved["train"]["kept"] == 26


def test_what_an_epoch_leaves_out_is_reported(tmp_path, make, pairs, capsys):
    fit(tmp_path, make(pairs, drop_last=True))
    assert "2 examples per epoch are left out" in capsys.readouterr().out
    assert "2 examples" in json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]["notes"][0]


def test_validation_test_and_prediction(tmp_path, make, pairs):
    data = make(pairs, validation=pairs, test=pairs, predict=pairs, max_tokens_per_batch=300)
    method = Method()
    own = trainer(tmp_path)
    own.fit(method, data)
    own.validate(method, data, verbose=False)
    own.test(method, data, verbose=False)
    own.predict(method, data)
    assert rows_of(method.validated) == sorted([*range(1, 27), *range(1, 27)])
    assert rows_of(method.tested) == list(range(1, 27))
    assert all(isinstance(batch, PairBatch) and batch.window is None for batch in method.tested)
    assert all(isinstance(batch, PromptBatch) for batch in method.predicted)
    assert rows_of(method.predicted) == list(range(1, 27))


def test_prediction_of_one_kind_after_another(tmp_path, make, pairs):
    data, method = make(predict=pairs), Method()
    trainer(tmp_path).predict(method, data)
    data.predict_kind = DataKind.PAIRS
    trainer(tmp_path).predict(method, data)
    kinds = [type(batch) for batch in method.predicted]
    assert kinds == [PromptBatch] * 7 + [PairBatch] * 7


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_stage_without_data(tmp_path, make, stage):
    split = {"fit": "train", "validate": "validation"}.get(stage, stage)
    with pytest.raises(ConfigError, match=f"data.{split} is not set"):
        getattr(trainer(tmp_path), stage)(Method(), make())


def test_a_set_without_usable_rows(tmp_path, make):
    path = write(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    with pytest.raises(DataError, match="all 3 were dropped"):
        fit(tmp_path, make(path))


def test_too_few_rows_for_one_batch(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", pair_rows(3))
    with pytest.raises(DataError, match=r"not one training batch[\s\S]*drop_last: false"):
        fit(tmp_path, make(path, drop_last=True))


# ---------------------------------------------------------------- kinds and conversions


def test_a_wrong_kind_names_the_setting_to_add(tmp_path, make, pairs):
    with pytest.raises(ConfigError) as caught:
        fit(tmp_path, make(pairs), KTO(DataKind.UNPAIRED))
    assert str(caught.value).startswith("KTO learns from unpaired data, and this file holds pairs.")
    assert "Add convert: pairs_to_unpaired under data." in str(caught.value)


def test_a_kind_that_nothing_makes(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError, match=r"demonstrations[\s\S]*no conversion between these"):
        make(path).examples("train", DataKind.PAIRS)


def test_ranked_data_offer_three_ways(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "responses": ["b", "c", "d"], "scores": [1, 2, 3]}])
    with pytest.raises(ConfigError, match="best_worst or all_pairs or adjacent_pairs"):
        make(path).examples("train", DataKind.PAIRS)
    example = make(path, convert="all_pairs").examples("train", DataKind.PAIRS)[0]
    assert len(example.ids) == 3
    assert len(example.pairs) == 3
    assert example.margins == [1.0, 2.0, 1.0] or sorted(example.margins) == [1.0, 1.0, 2.0]


def test_unpaired_batches_from_pairs(tmp_path, make, pairs):
    method = KTO(DataKind.UNPAIRED)
    method.needs_kl = True
    data = make(pairs, validation=pairs, convert="pairs_to_unpaired")
    trainer(tmp_path).validate(method, data, verbose=False)
    assert all(isinstance(batch, LabelBatch) and batch.kl_rows is not None for batch in method.validated)
    assert sum(int(batch.label.sum()) for batch in method.validated) == 26


def test_labelled_responses_are_not_imitated_unasked(make, tmp_path):
    rows = [{"prompt": f"Q{n}?", "completion": "x", "label": n > 0} for n in range(4)]
    path = write(tmp_path / "kto.jsonl", rows)
    with pytest.raises(ConfigError) as caught:
        make(path).examples("train", DataKind.DEMONSTRATIONS)
    text = str(caught.value)
    assert "learns from demonstrations, and this file holds unpaired data." in text
    assert "Add convert: unpaired_to_desirable under data." in text
    assert "--data.columns '{label: null}'" in text
    data = make(path, convert="unpaired_to_desirable")
    assert [example.row for example in data.examples("train", DataKind.DEMONSTRATIONS)] == [2, 3, 4]
    assert data.reports["train"].dropped["the response is labelled undesirable"].rows == [1]
    assert len(make(path, columns={"label": None}).examples("train", DataKind.DEMONSTRATIONS)) == 4


def test_a_conversion_with_nothing_to_do_is_noted(make, pairs):
    data = make(pairs, convert="best_worst")
    assert len(data.examples("train", DataKind.PAIRS)) == 26
    assert data.reports["train"].notes == ["convert: best_worst has nothing to do, the rows are pairs"]


def test_an_unknown_conversion(make, pairs):
    with pytest.raises(ConfigError, match="did you mean 'pairs_to_chosen'"):
        make(pairs, convert="pair_to_chosen").examples("train", DataKind.DEMONSTRATIONS)


def test_one_label_can_be_measured_but_not_learnt(tmp_path, make):
    path = write(tmp_path / "kto.jsonl", [{"prompt": f"{n}", "completion": "x", "label": True} for n in range(4)])
    with pytest.raises(DataError, match="all 4 labels are the same"):
        make(path).examples("train", DataKind.UNPAIRED)
    assert len(make(validation=path).examples("validation", DataKind.UNPAIRED)) == 4


# ---------------------------------------------------------------- cached reference values


def test_reference_values_reach_the_batches(tmp_path, make, pairs):
    data = make(pairs, val_split=6)

    class Filling(Method):
        def on_fit_start(self):
            for split in data.reference_splits():
                store = data.examples(split)
                data.set_reference_logps(split, [[float(example.row), 0.0] for example in store])

        def training_step(self, batch, batch_idx):
            assert batch.reference_logps[batch.chosen].tolist() == batch.source_rows.tolist()
            return super().training_step(batch, batch_idx)

    # The loader exists before the values do.
    method = fit(tmp_path, data, Filling(ask_length=True))
    assert len(method.seen) == 5
    assert data.reference_splits() == ["train", "validation"]
    assert data.fingerprint("train") != data.fingerprint("validation")
    assert data.fingerprint("train") != make(pairs, val_split=6, max_length=99).fingerprint("train")


def test_a_stream_has_no_workers(pairs):
    with pytest.raises(ConfigError, match=r"data\.streaming: true, data\.num_workers: 2"):
        PreferenceDataModule(pairs, streaming=True, num_workers=2)


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("batch_size", 0, "above 0"),
        ("batch_size", -3, "above 0"),
        ("max_tokens_per_batch", 0, "above 0"),
        ("num_workers", -1, "0 or more"),
        ("stream_buffer", 0, "above 0"),
        ("max_length", 0, "above 0"),
        ("val_split", 1.0, "below 1"),
        ("val_split", -1, "below 1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(setting, value, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        PreferenceDataModule("no such file.jsonl", **{setting: value})
    assert caught.value.got == f"data.{setting}: {value}"
