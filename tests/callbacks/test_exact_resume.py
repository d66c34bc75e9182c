"""Runs that are killed anywhere and resumed equal runs that were not, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.core.fsdp2 import FSDP2Strategy
from tests.callbacks.toy import Kill, KilledWriter, ToyData, ToyModule, assert_same_run, build_trainer, rows, train
from tests.launch import RankError, launch

SETTINGS = {
    "accumulating": {"accumulate_grad_batches": 3, "val_check_interval": 4},
    "validation at the end of epochs": {"accumulate_grad_batches": 2},
    "no validation": {"limit_val_batches": 0},
    "stops inside an epoch": {"max_epochs": -1, "max_steps": 17, "val_check_interval": 4},
}
KILLS = {
    "after the first batch": ("on_train_batch_end", 1),
    "inside an epoch": ("on_train_batch_end", 8),
    "at the end of an epoch": ("on_train_epoch_end", 1),
    "before the second epoch": ("on_train_epoch_start", 2),
    "inside the second epoch": ("on_train_batch_end", 16),
    "before the optimiser steps": ("on_before_optimizer_step", 5),
    "inside a validation": ("on_validation_batch_end", 5),
    "at the end of a validation": ("on_validation_end", 3),
    "inside a checkpoint's file": ("save_checkpoint", 3),
}
FEW = ["at the end of an epoch", "inside the second epoch", "inside a checkpoint's file"]
CASES = {
    "accumulating": list(KILLS),
    "validation at the end of epochs": [*FEW, "inside a validation", "before the second epoch"],
    "no validation": FEW,
    "stops inside an epoch": [*FEW, "at the end of a validation"],
}


def killed(folder, hook, count, **settings):
    if hook == "save_checkpoint":
        train(folder, plugins=[KilledWriter(count)], **settings)
    else:
        train(folder, Kill(hook, count), **settings)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, setting):
    whole = train(tmp_path / "whole", **SETTINGS[setting])
    for name in CASES[setting]:
        folder = tmp_path / name
        with pytest.raises(RankError, match="died"):
            launch(killed, folder, *KILLS[name], world=1, **SETTINGS[setting])
        resumed = train(folder, ckpt_path="last", **SETTINGS[setting])
        assert_same_run(whole, resumed, tmp_path / "whole", folder)
        if "inside the second" in name:
            assert len(resumed.losses) < 0.6 * len(whole.losses), "it went on, and did not begin again"


class SaveAt(Callback):
    """Saves after the n-th batch, wherever that is."""

    def __init__(self, batch: int, path: Path) -> None:
        self.left, self.path = batch, path

    def on_train_batch_end(self, trainer, *args):
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("batch", [4, 5, 6, 14])
def test_gradients_of_an_unfinished_window_are_kept(tmp_path, batch):
    settings = {"accumulate_grad_batches": 3, "limit_val_batches": 0}
    path = tmp_path / "inside.ckpt"
    whole = train(tmp_path / "run", SaveAt(batch, path), **settings)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    saved = torch.load(path, weights_only=True)["exact_resume"]["gradients"]
    assert (saved is None) == (batch % 3 == 0 or batch == 13)
    resumed = train(tmp_path / "run", ckpt_path=str(path), **settings)
    assert resumed.losses == whole.losses[batch:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_plain_checkpoints_written_by_validation_resume_too(tmp_path):
    """Lightning's own callback saves after a validation, here inside an accumulation window."""
    settings = {"accumulate_grad_batches": 3, "val_check_interval": 4}

    def plain():
        return ModelCheckpoint(dirpath=tmp_path / "plain", filename="{step}", save_top_k=-1)

    whole = train(tmp_path / "run", plain(), **settings)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    path = tmp_path / "plain" / "step=1.ckpt"
    assert torch.load(path, weights_only=True)["exact_resume"]["gradients"] is not None
    resumed = train(tmp_path / "run", ckpt_path=str(path), **settings)
    assert resumed.losses == whole.losses[4:]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


class Batches(Callback):
    """Notes the epoch and the rows of every batch, and the epochs that start and end."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []
        self.epochs: list[tuple[str, int]] = []

    def on_train_epoch_start(self, trainer, *args):
        self.epochs.append(("start", trainer.current_epoch))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, batch["row"].tolist()))

    def on_train_epoch_end(self, trainer, *args):
        self.epochs.append(("end", trainer.current_epoch))


LENGTHS = {
    "max_epochs": {"max_epochs": 3},
    "max_steps": {"max_steps": 31, "max_epochs": 10},
    "max_steps alone": {"max_steps": 31, "max_epochs": -1},
    "max_steps, an uneven last window": {"max_steps": 13, "max_epochs": 10, "accumulate_grad_batches": 3},
    "max_steps, limited epochs": {"max_steps": 25, "max_epochs": 10, "limit_train_batches": 10},
}
VALIDATIONS = {
    "none": {"limit_val_batches": 0},
    "at the end": {},
    "inside": {"val_check_interval": 4},
    "across epochs": {"val_check_interval": 6, "check_val_every_n_epoch": None},
}


def steps_per_epoch(settings):
    return -(-settings.get("limit_train_batches", 13) // settings.get("accumulate_grad_batches", 1))


def resume_and_compare(folder, path, step, whole, batches, settings):
    """Go on from a checkpoint at the end of the first or second epoch, and see that all is as it was."""
    metrics = (folder / "metrics.jsonl").read_bytes()
    again = Batches()
    end = RunCheckpoint(every_n_steps=0, keep=-1)
    resumed = train(folder, again, ckpt_path=str(path), checkpoint=end, **settings)
    over = step // steps_per_epoch(settings)
    done = over * settings.get("limit_train_batches", 13)
    assert again.seen == batches.seen[done:]
    assert again.epochs == batches.epochs[2 * over :]
    assert resumed.losses == whole.losses[done:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (folder / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("validation", VALIDATIONS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_next_epoch_follows_an_epochs_last_batch(tmp_path, length, validation):
    settings = LENGTHS[length] | VALIDATIONS[validation]
    batches, checkpoint = Batches(), RunCheckpoint(every_n_steps=1, keep=-1)
    whole = train(tmp_path, batches, checkpoint=checkpoint, **settings)
    # Backwards: going on from one sets those after it aside.
    for step in (2 * steps_per_epoch(settings), steps_per_epoch(settings)):
        path = tmp_path / "checkpoints" / f"step={step}.ckpt"
        resume_and_compare(tmp_path, path, step, whole, batches, settings)


@pytest.mark.parametrize("hook", ["after a batch", "after a validation"])
@pytest.mark.parametrize("length", LENGTHS)
def test_plain_checkpoints_on_an_epochs_last_batch_resume_too(tmp_path, length, hook):
    """Lightning's own callback saves before the step, and so the epoch, is over."""
    if hook == "after a batch":
        settings = LENGTHS[length] | VALIDATIONS["none"]
        when = {"every_n_train_steps": steps_per_epoch(settings)}
    else:
        settings, when = LENGTHS[length], {}
    batches = Batches()
    plain = ModelCheckpoint(dirpath=tmp_path / "plain", filename="{step}", save_top_k=-1, **when)
    whole = train(tmp_path, plain, batches, checkpoint=RunCheckpoint(every_n_steps=0), **settings)
    for step in (steps_per_epoch(settings), 2 * steps_per_epoch(settings)):
        resume_and_compare(tmp_path, tmp_path / "plain" / f"step={step}.ckpt", step, whole, batches, settings)


class Draws(Callback):
    """Draws from every global generator in every step."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, float, float]] = []

    def on_train_batch_end(self, *args):
        self.drawn.append((random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(1).item()))


def test_all_generators_are_restored_and_the_file_loads_without_code(tmp_path):
    whole, resumed = Draws(), Draws()
    train(tmp_path, whole, checkpoint=RunCheckpoint(every_n_steps=5, keep=-1))
    path = tmp_path / "checkpoints" / "step=5.ckpt"
    torch.load(path, weights_only=True)
    train(tmp_path, resumed, ckpt_path=str(path))
    assert resumed.drawn == whole.drawn[5:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: 1 then, 2 now"),
        ({"data": ToyData(batch_size=1)}, "batch_size: 2 then, 1 now"),
    ],
)
def test_changed_settings_are_refused_by_name(tmp_path, change, message):
    train(tmp_path, max_steps=6)
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, ckpt_path="last", **change)


def test_changed_settings_can_be_allowed(tmp_path):
    train(tmp_path, max_steps=6)
    module = ToyModule()
    trainer = build_trainer(tmp_path, [ExactResume(allow_changes=True), RunCheckpoint()], accumulate_grad_batches=2)
    trainer.fit(module, ToyData(), ckpt_path="last")
    assert len(module.losses) == 7 + 13


def test_other_verbs_do_not_care(tmp_path):
    train(tmp_path, max_steps=6)
    trainer = build_trainer(tmp_path, [ExactResume(), RunCheckpoint()], accumulate_grad_batches=2)
    before = rows(tmp_path)
    trainer.validate(ToyModule(), ToyData(), ckpt_path="last")
    assert rows(tmp_path)[: len(before)] == before
    assert "val/loss" in rows(tmp_path)[-1]


def test_a_checkpoint_without_the_callback_is_used_with_a_warning(tmp_path):
    trainer = build_trainer(tmp_path, [RunCheckpoint(every_n_steps=4)], max_steps=6)
    trainer.fit(ToyModule(), ToyData())
    with pytest.warns(UserWarning, match="written without ExactResume"):
        train(tmp_path, ckpt_path="last", max_steps=8)


def test_a_new_run_puts_old_metrics_aside(tmp_path):
    train(tmp_path, max_steps=4)
    first = (tmp_path / "metrics.jsonl").read_bytes()
    train(tmp_path, max_steps=2)
    assert (tmp_path / "metrics.jsonl.old").read_bytes() == first
    assert len(rows(tmp_path)) < first.count(b"\n")


# -------------------------------------------------------------------- ranks


STRATEGIES = {
    "ddp": lambda: "ddp",
    "fsdp2": FSDP2Strategy,
    "fsdp2, reducing every micro-batch": lambda: FSDP2Strategy(sync_every_micro_batch=True),
}


class OwnNoise(Callback):
    """Random numbers that differ between ranks, as after a rank has drawn more of them than another."""

    def on_train_start(self, trainer, pl_module):
        torch.manual_seed(trainer.global_rank)


def rank_run(folder, strategy="ddp", batch=None, **settings):
    """Losses and weights of one rank; with `batch`, it saves there, without it goes on from what was saved."""
    saved = folder / "saved.ckpt"
    extra, path = ([], str(saved)) if batch is None else ([SaveAt(batch, saved), OwnNoise()], None)
    module = train(folder, *extra, ckpt_path=path, devices=2, strategy=STRATEGIES[strategy](), **settings)
    weights = [getattr(p, "full_tensor", lambda p=p: p)() for p in module.policy.parameters()]
    return module.losses, [weight.tolist() for weight in weights]


RANKS = {"accumulate_grad_batches": 2, "max_epochs": 3, "limit_val_batches": 0}


@pytest.mark.parametrize(("strategy", "batch"), [("ddp", 5), ("fsdp2", 4), ("fsdp2, reducing every micro-batch", 5)])
def test_two_ranks(tmp_path, strategy, batch):
    """Each rank gets its own dropout masks and, inside a window, its own gradients back."""
    whole = launch(rank_run, tmp_path, strategy, batch, **RANKS)
    assert whole[0][0] != whole[1][0]
    resumed = launch(rank_run, tmp_path, strategy, **RANKS)
    for (losses, weights), (later, weights_again) in zip(whole, resumed, strict=True):
        assert later == losses[batch:]
        assert weights_again == weights


def test_gradients_out_of_reach_are_not_forgotten_in_silence(tmp_path):
    launch(rank_run, tmp_path, "fsdp2", 5, **RANKS)
    with pytest.raises(RankError, match="inside an accumulation window, without the window's gradients"):
        launch(rank_run, tmp_path, "fsdp2", **RANKS)


def test_another_number_of_ranks_is_refused(tmp_path):
    launch(rank_run, tmp_path, batch=4, max_steps=5)
    with pytest.raises(ConfigError, match="world_size: 2 then, 1 now"):
        train(tmp_path, ckpt_path=str(tmp_path / "saved.ckpt"))
