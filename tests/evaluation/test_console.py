"""What is shown in the terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import ModelSummary, RichProgressBar

from lit_align.evaluation.console import EpochBar, SizeSummary
from lit_align.trainer import AlignTrainer


def _bar(**settings) -> EpochBar:
    batches = SimpleNamespace(current=SimpleNamespace(ready=settings.pop("ready", 0)))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=batches))
    defaults = {"max_epochs": -1, "max_steps": -1, "global_step": 0, "accumulate_grad_batches": 1}
    bar = EpochBar()
    bar._trainer = SimpleNamespace(**{**defaults, "num_training_batches": 100, "fit_loop": loop, **settings})
    return bar


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"max_epochs": 3}, "Epoch 1/3"), ({"max_epochs": -1}, "Epoch 1"), ({"max_epochs": None}, "Epoch 1")],
)
def test_epochs_count_from_1(settings, text):
    assert _bar(**settings)._get_train_description(0).strip() == text


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ({}, 100),
        ({"max_steps": 3, "accumulate_grad_batches": 8}, 24),
        ({"max_steps": 30, "accumulate_grad_batches": 8}, 100),
        ({"max_steps": 30, "accumulate_grad_batches": 8, "global_step": 25, "ready": 20}, 60),
    ],
)
def test_the_bar_ends_where_the_run_ends(settings, batches):
    assert _bar(**settings).total_train_batches == batches


def test_sizes_take_one_line(capsys):
    data = [("Name", ["policy", "reference"]), ("Type", ["Scorer", "FrozenCopy"]), ("Params", ["260 K", "260 K"])]
    SizeSummary.summarize(data, 520_000, 260_000, 2.08, {"train": 1, "eval": 2}, total_flops=0)
    assert capsys.readouterr().out == "parameters: policy 260 K, reference 260 K; 260 K of them trained\n"


def test_the_user_s_own_take_their_place():
    def shown(**settings) -> list[type]:
        callbacks = AlignTrainer(accelerator="cpu", **settings).callbacks
        return [type(c) for c in callbacks if isinstance(c, (RichProgressBar, ModelSummary))]

    assert shown() == [EpochBar, SizeSummary]
    assert shown(enable_progress_bar=False) == [SizeSummary]
    assert shown(enable_model_summary=False) == [EpochBar]
    assert shown(callbacks=[RichProgressBar(), ModelSummary(max_depth=2)]) == [RichProgressBar, ModelSummary]
    assert shown(barebones=True) == []
