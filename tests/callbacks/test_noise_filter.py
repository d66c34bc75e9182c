"""ROPO's filter finds labels that are wrong, and a resumed run goes on with the rows that it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

import lit_align
from lit_align import PreferenceDataModule
from lit_align.callbacks import ExactResume, NoiseFilter, RunCheckpoint
from lit_align.callbacks.noise_filter import by_row
from lit_align.core.errors import ConfigError
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.functional.selection import number_kept
from tests.launch import launch

ROWS = 20
FLIPPED = [3, 8, 12, 17]


@pytest.fixture
def pairs(tmp_path) -> str:
    """Pairs in which yes is better than no, but for four."""
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as file:
        for row in range(1, ROWS + 1):
            answers = [" yes yes yes", " no no"]
            chosen, rejected = reversed(answers) if row in FLIPPED else answers
            file.write(json.dumps({"prompt": f"Is {row} a number?", "chosen": chosen, "rejected": rejected}) + "\n")
    return str(path)


class Watch(Callback):
    """Notes what was dropped in each epoch, and what was logged."""

    def __init__(self) -> None:
        self.dropped: list[list[int]] = []
        self.logged: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.dropped.append(_filter(trainer).dropped)

    def on_train_batch_end(self, trainer, *args):
        self.logged.append(float(trainer.callback_metrics["noise_filter/dropped"]))


def _filter(trainer: Trainer) -> NoiseFilter:
    return next(callback for callback in trainer.callbacks if isinstance(callback, NoiseFilter))


def fit(model: str, pairs: str, folder: Path, *callbacks: Callback, method: str = "ROPO", **kwargs: Any):
    """Train; the weights and the losses of all micro-batches."""
    seed_everything(0, verbose=False)
    settings = {"max_epochs": 3, "devices": 1, "accumulate_grad_batches": 1, "ckpt_path": None} | kwargs
    ckpt_path, data = settings.pop("ckpt_path"), settings.pop("data", {})
    module = getattr(lit_align, method)(
        policy=model, learning_rate=3e-3, warmup_ratio=0.0, schedule="constant", dropout=True
    )
    trainer = Trainer(
        accelerator="cpu", default_root_dir=str(folder), callbacks=[ExactResume(), *callbacks], logger=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, **settings,
    )  # fmt: skip
    data = {"batch_size": 2, "cache_dir": str(folder / "cache")} | data
    trainer.fit(module, PreferenceDataModule(pairs, **data), ckpt_path=ckpt_path)
    weights = (getattr(p, "full_tensor", lambda p=p: p)() for p in module.policy.parameters())
    return torch.cat([weight.detach().flatten() for weight in weights])


def test_flipped_rows_are_left_out(tiny_model_dir, pairs, tmp_path, capsys):
    watch, chosen = Watch(), NoiseFilter(0.2)
    fit(tiny_model_dir, pairs, tmp_path, chosen, watch)
    assert watch.dropped == [[], FLIPPED, FLIPPED]
    assert watch.logged == [0.0] * 10 + [4.0] * 20
    first, second = map(json.loads, (tmp_path / "noise_filter.jsonl").read_text().splitlines())
    assert first | {"threshold": 0} == {
        "epoch": 1, "step": 10, "rows": 20, "kept": 16, "threshold": 0, "dropped": [str(row) for row in FLIPPED],
    }  # fmt: skip
    assert (second["epoch"], second["step"]) == (2, 20)


def test_a_filter_that_has_served_a_run_begins_anew(tiny_model_dir, pairs, tmp_path):
    chosen = NoiseFilter(0.2)
    for folder in ("first", "second"):
        watch = Watch()
        fit(tiny_model_dir, pairs, tmp_path / folder, chosen, watch, max_epochs=2)
        assert watch.dropped == [[], FLIPPED]
        assert len((tmp_path / folder / "noise_filter.jsonl").read_text().splitlines()) == 1


def test_rows_are_weighted_up_for_those_left_out(tiny_model_dir, pairs, tmp_path):
    class Weights(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.last = pl_module.row_weights
            self.module = pl_module

    weights = Weights()
    fit(tiny_model_dir, pairs, tmp_path, NoiseFilter(0.2), weights, max_epochs=2)
    assert weights.last[1:].tolist() == [0.0 if row in FLIPPED else 1.25 for row in range(1, ROWS + 1)]
    assert weights.module.row_weights is None, "a later run begins without"


def test_the_metrics_of_training_do_not_notice(tiny_model_dir, pairs, tmp_path):
    class Meters(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.meter.add("mine", torch.ones(3))

        def on_train_batch_start(self, trainer, pl_module, *args):
            self.seen = pl_module.meter.compute()

    meters = Meters()
    # The mark is made before the filter works, in a window that is not finished.
    fit(tiny_model_dir, pairs, tmp_path, meters, NoiseFilter(0.2), max_epochs=2, max_steps=11)
    assert meters.seen == {"mine": 1.0}


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 0, 4, 4]), (3, [0, 0, 0, 4])])
def test_choices_every_few_epochs(tiny_model_dir, pairs, tmp_path, every, expected):
    watch = Watch()
    fit(tiny_model_dir, pairs, tmp_path, NoiseFilter(0.2, every), watch, max_epochs=4)
    assert [len(dropped) for dropped in watch.dropped] == expected


@pytest.mark.parametrize(("accumulate", "step"), [(1, 10), (1, 13), (2, 8), (2, 10), (2, 5)])
def test_a_resumed_run_is_the_same(tiny_model_dir, pairs, tmp_path, accumulate, step):
    def callbacks(name: str) -> list[Callback]:
        return [NoiseFilter(0.3), RunCheckpoint(every_n_steps=1, keep=-1, dirpath=str(tmp_path / name))]

    settings = {"accumulate_grad_batches": accumulate}
    whole = fit(tiny_model_dir, pairs, tmp_path / "whole", *callbacks("first"), **settings)
    checkpoint = str(tmp_path / "first" / f"step={step}.ckpt")
    folder = tmp_path / "whole"
    expected = (folder / "noise_filter.jsonl").read_bytes()
    again = fit(tiny_model_dir, pairs, folder, *callbacks("second"), ckpt_path=checkpoint, **settings)
    assert torch.equal(again, whole)
    assert (folder / "noise_filter.jsonl").read_bytes() == expected


def choose_on_two(model: str, pairs: str, folder: Path, strategy: str) -> list[list[int]]:
    watch = Watch()
    settings = {"devices": 2, "strategy": FSDP2Strategy() if strategy == "fsdp2" else strategy}
    fit(model, pairs, folder, NoiseFilter(0.2), watch, max_epochs=2, data={"batch_size": 1}, **settings)
    return watch.dropped


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_agree(tiny_model_dir, pairs, tmp_path, strategy):
    assert launch(choose_on_two, tiny_model_dir, pairs, tmp_path, strategy, world=2) == [[[], FLIPPED]] * 2


def test_the_loss_of_ropo_has_the_weights_in_training_only():
    module = lit_align.ROPO(policy="unused")
    zeros = torch.zeros(3, dtype=torch.float64)
    logps = lit_align.core.outputs.PairLogps(zeros, zeros, zeros + 1, zeros + 1)
    plain = module.losses(logps, logps, torch.tensor([2, 3, 2]))
    module.row_weights = torch.tensor([0.0, 1.0, 1.5, 0.0])
    assert torch.equal(module.losses(logps, logps, torch.tensor([2, 3, 2])), plain * torch.tensor([1.5, 0.0, 1.5]))
    assert torch.equal(module.eval().losses(logps, logps, torch.tensor([2, 3, 2])), plain)


def test_rows_of_several_pairs_have_their_mean_loss():
    rows, losses, pairs = by_row(torch.tensor([[2, 1.0], [2, 3.0], [7, 0.5]], dtype=torch.float64))
    assert (rows.tolist(), losses.tolist(), pairs.tolist()) == ([2, 7], [2.0, 0.5], [2, 1])


def test_the_smallest_losses_are_kept_and_of_equal_ones_the_first():
    losses = torch.tensor([0.9, 0.1, 2.0, 0.4, 1.1])
    assert number_kept(5, 0.4) == 3
    assert sorted(losses.sort(stable=True).indices[:3].tolist()) == [0, 1, 3]
    assert torch.zeros(4).sort(stable=True).indices[: number_kept(4, 0.5)].tolist() == [0, 1]


def test_methods_without_weights_are_refused(tiny_model_dir, pairs, tmp_path):
    with pytest.raises(ConfigError, match="DPO, which has no `row_weights`") as caught:
        fit(tiny_model_dir, pairs, tmp_path, NoiseFilter(), method="DPO")
    assert "ROPO" in caught.value.fix


def test_streams_are_refused(tiny_model_dir, pairs, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.streaming: true"):
        fit(tiny_model_dir, pairs, tmp_path, NoiseFilter(), max_steps=2, data={"streaming": True})


def test_a_run_of_one_epoch_is_told(tiny_model_dir, pairs, tmp_path):
    with pytest.warns(UserWarning, match="will drop nothing: training ends after 1 epochs"):
        fit(tiny_model_dir, pairs, tmp_path, NoiseFilter(), max_epochs=1)


@pytest.mark.parametrize("setting", [{"drop": 1.0}, {"drop": -0.1}, {"every_n_epochs": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        NoiseFilter(**setting)
