"""The order of batches, with the data module in a trainer: resumed from any checkpoint, streamed, on two processes."""

from __future__ import annotations

import json
import warnings

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_align.core.errors import ConfigError, DataError
from tests.data.modules import QUIET, Method, fit, make_module, pair_rows, write
from tests.launch import launch

pytestmark = QUIET


def resumed_equals_whole(tmp_path, data, whole_settings, method=Method, **more):
    """Kills nothing, but starts from every checkpoint of a run, and compares what is seen from there on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep = ModelCheckpoint(tmp_path / "ckpt", "{step}", save_top_k=-1, every_n_train_steps=1)
        whole = fit(tmp_path, data(), method(**more), callbacks=[keep], **whole_settings)
        paths = sorted((tmp_path / "ckpt").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
        assert len(paths) >= 3
        for path in paths[:-1]:
            resumed = fit(tmp_path, data(), method(**more), ckpt_path=str(path), **whole_settings)
            step = int(path.stem.split("=")[1])
            expected = [seen for seen in whole.seen if seen[4] >= step]
            assert [seen[2:] for seen in resumed.seen] == [seen[2:] for seen in expected], path.name
    return whole


@pytest.mark.parametrize("ask_length", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"reload_dataloaders_every_n_epochs": 1},
        {"max_epochs": -1, "max_steps": 11},
        {"limit_train_batches": 3, "accumulate_grad_batches": 2},
    ],
)
def test_resumes_after_any_step(tmp_path, make, settings, ask_length):
    path = write(tmp_path / "rows.jsonl", pair_rows(14))
    settings = {"max_epochs": 3, **settings}
    resumed_equals_whole(tmp_path, lambda: make(path), settings, ask_length=ask_length)


def test_balanced_pairs_resume_after_any_step(tmp_path, make):
    """Which pairs are left out does not depend on the process that draws them."""
    rows = [{"prompt": f"Q{n}?", "chosen": "y" * (9 if n % 4 else 3), "rejected": "n" * 6} for n in range(40)]
    path = write(tmp_path / "rows.jsonl", rows)
    whole = resumed_equals_whole(tmp_path, lambda: make(path, balance_lengths="downsample"), {"max_epochs": 2})
    assert len({row for seen in whole.seen for row in seen[2]}) == 20


def test_a_checkpoint_inside_an_accumulation_window(tmp_path, make, pairs):
    class SaveInside(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    settings = {"accumulate_grad_batches": 3}
    whole = fit(tmp_path, make(pairs), callbacks=[SaveInside()], **settings)
    resumed = fit(tmp_path, make(pairs), ckpt_path=str(tmp_path / "inside.ckpt"), **settings)
    assert [seen[1:] for seen in resumed.seen] == [seen[1:] for seen in whole.seen[4:]]


def test_other_batches_are_refused_inside_an_epoch_only(tmp_path, make, pairs):
    keep = ModelCheckpoint(tmp_path / "ckpt", "{step}", save_top_k=-1, every_n_train_steps=1)
    end = ModelCheckpoint(tmp_path / "ckpt", "end", every_n_epochs=1)
    fit(tmp_path, make(pairs), callbacks=[keep, end])
    with pytest.raises(ConfigError, match="inside an epoch"):
        fit(tmp_path, make(pairs, batch_size=3), ckpt_path=str(tmp_path / "ckpt" / "step=2.ckpt"))
    at_end = str(tmp_path / "ckpt" / "end.ckpt")
    method = fit(tmp_path, make(pairs, batch_size=3), max_epochs=2, ckpt_path=at_end)
    assert {seen[0] for seen in method.seen} == {1}
    assert sorted(row for seen in method.seen for row in seen[2]) == list(range(1, 27))


# ---------------------------------------------------------------- streams


def test_a_stream_trains_and_reports_at_its_end(tmp_path, make, pairs, capsys):
    data = make(pairs, streaming=True, stream_buffer=10)
    method = fit(tmp_path, data, max_epochs=2, accumulate_grad_batches=2)
    orders = []
    for epoch in range(2):
        rows = [row for seen in method.seen if seen[0] == epoch for row in seen[2]]
        assert sorted(rows) == list(range(1, 27))
        orders.append(rows)
    assert orders[0] != orders[1]
    printed = capsys.readouterr().out
    assert "streamed" in printed
    assert printed.count("26 read, 26 kept") == 2
    assert json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]["kept"] == 26


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 11},
        {"max_epochs": -1, "max_steps": 8, "accumulate_grad_batches": 2},
        {"max_epochs": 3, "limit_train_batches": 3, "accumulate_grad_batches": 2},
    ],
)
def test_a_stream_resumes_after_any_step(tmp_path, make, settings):
    path = write(tmp_path / "rows.jsonl", pair_rows(18))
    resumed_equals_whole(tmp_path, lambda: make(path, streaming=True, stream_buffer=7), settings)


def test_a_stream_of_nothing_to_learn(tmp_path, make):
    path = write(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    with pytest.raises(DataError, match="all 3 were dropped"):
        fit(tmp_path, make(path, streaming=True))


def test_a_stream_cannot_be_split(tmp_path, make, pairs):
    with pytest.raises(ConfigError, match=r"data\.validation"):
        fit(tmp_path, make(pairs, streaming=True, val_split=0.1))


# ---------------------------------------------------------------- processes


def _fit_on_ranks(folder, path, streaming):
    own = make_module(folder, path, validation=path, streaming=streaming, stream_buffer=12)
    method = fit(folder, own, strategy="ddp", devices=2, max_epochs=2, accumulate_grad_batches=2)
    return method.seen, [batch.source_rows.tolist() for batch in method.validated]


@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_share_the_rows_and_agree_on_counts(tmp_path, streaming):
    path = write(tmp_path / "rows.jsonl", pair_rows(27))
    (seen, validated), (seen_1, validated_1) = launch(_fit_on_ranks, tmp_path, path, streaming, world=2)
    assert len(seen) == len(seen_1)
    assert [item[3] for item in seen] == [item[3] for item in seen_1]
    for epoch in range(2):
        rows = [row for item in seen + seen_1 if item[0] == epoch for row in item[2]]
        assert sorted(rows) == list(range(1, 28))
    windows = {id(item[3]): item[3].examples for item in seen if item[0] == 0}
    assert sum(set(windows.values())) <= 27
    both = [row for batch in validated + validated_1 for row in batch]
    assert sorted(both) == sorted([*range(1, 28), *range(1, 28)])
    assert len(validated) == len(validated_1)
