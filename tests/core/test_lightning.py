"""What people do with any LightningModule: averages of weights, other precisions, own schedulers and losses."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim import SGD

import lit_align
from lit_align import DPO, PreferenceDataModule, Trainer
from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import PairwiseModule
from lit_align.core.optimisation import schedule_factor
from tests.runs import STEPS, Crash, train, write_pairs


def weights(module: L.LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def callbacks(*more: L.Callback) -> list[L.Callback]:
    return [ExactResume(), RunCheckpoint(every_n_steps=2, keep=-1), *more]


def test_wrappers_leave_out_the_same(tiny_model_dir, tmp_path):
    module = DPO(policy=tiny_model_dir)
    train(module, tmp_path, [])
    assert set(nn.Sequential(module).state_dict()) == {f"0.{name}" for name in module.state_dict()}
    assert not any(name.startswith("reference.") for name in module.state_dict())


def test_averages_of_weights_resume(tiny_model_dir, tmp_path):
    whole = DPO(policy=tiny_model_dir, learning_rate=1e-3)
    train(whole, tmp_path / "whole", callbacks(EMAWeightAveraging(decay=0.5)))
    train(
        DPO(policy=tiny_model_dir, learning_rate=1e-3),
        tmp_path / "killed",
        callbacks(EMAWeightAveraging(decay=0.5), Crash(5)),
    )
    resumed = DPO(policy=tiny_model_dir, learning_rate=1e-3)
    path = tmp_path / "killed" / "checkpoints" / "step=4.ckpt"
    train(resumed, tmp_path / "killed", callbacks(EMAWeightAveraging(decay=0.5)), resume=str(path))
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_double_precision_resumes(tiny_model_dir, tmp_path):
    def run(folder: str, *more: L.Callback, resume: str | None = None) -> DPO:
        module = DPO(policy=tiny_model_dir, learning_rate=1e-3)
        trainer = Trainer(
            default_root_dir=str(tmp_path / folder), accelerator="cpu", precision="64-true", max_steps=6, logger=False,
            callbacks=[RunCheckpoint(every_n_steps=2, keep=-1), *more], enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        data = PreferenceDataModule(write_pairs(tmp_path), batch_size=2, cache_dir=str(tmp_path / "cache"))
        with suppress(InterruptedError):
            trainer.fit(module, data, ckpt_path=resume)
        return module

    whole = run("whole")
    run("killed", Crash(5))
    resumed = run("killed", resume="last")
    assert {value.dtype for value in weights(resumed).values()} == {torch.float64}
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_loading_keeps_the_reference_and_takes_overrides(tiny_model_dir, tmp_path):
    train(DPO(policy=tiny_model_dir, reference="none"), tmp_path, callbacks())
    path = tmp_path / "checkpoints" / f"step={STEPS}.ckpt"
    loaded = DPO.load_from_checkpoint(path, map_location="cpu", dtype="bfloat16", activation_checkpointing=True)
    assert type(loaded.reference).__name__ == "NoReference"
    assert loaded.policy_spec.dtype == "bfloat16"
    assert loaded.policy_spec.activation_checkpointing
    DPO.load_from_checkpoint(path, map_location="cpu", reference="precomputed")


def test_a_constant_rate_needs_no_end():
    assert schedule_factor(7, float("inf"), 0.0, "constant") == 1.0
    for warmup, schedule in ((0.1, "constant"), (0.0, "cosine")):
        with pytest.raises(ConfigError, match="length of the run is unknown"):
            schedule_factor(7, float("inf"), warmup, schedule)


def rates(module: DPO, folder: Path) -> list[float]:
    """Learning rates of the steps."""
    seen: list[float] = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    train(module, folder, [Watch()])
    return seen


def test_an_optimiser_of_ones_own_is_warmed_up_too(tiny_model_dir, tmp_path):
    module = DPO(
        policy=tiny_model_dir, optimizer=lambda p: SGD(p, lr=1.0), schedule="constant", warmup_ratio=0.25
    )  # fmt: skip
    assert rates(module, tmp_path) == pytest.approx([1 / 3, 2 / 3, *[1.0] * (STEPS - 2)])


def test_plateaus_are_judged_by_held_out_loss(tiny_model_dir, tmp_path):
    module = DPO(
        policy=tiny_model_dir, learning_rate=0.0,
        lr_scheduler=lambda o: ReduceLROnPlateau(o, monitor="val/rewards/margins", mode="max", patience=0, factor=0.1),
    )  # fmt: skip
    file = write_pairs(tmp_path)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(module, PreferenceDataModule(file, validation=file, batch_size=7, cache_dir=str(tmp_path / "cache")))
    # Before its first look it is minus infinity; policy and reference are still equal.
    assert trainer.lr_scheduler_configs[0].scheduler.best == pytest.approx(0.0, abs=1e-9)
    assert trainer.lr_scheduler_configs[0].monitor == "val/rewards/margins"


class Own(PairwiseModule):
    """A loss in one line, without a beta."""

    averaged = False

    def losses(self, policy: Any, reference: Any) -> torch.Tensor:
        losses = (policy.rejected - policy.chosen).exp().log1p()
        return losses.mean() if self.averaged else losses


def test_a_loss_of_ones_own(tiny_model_dir, tmp_path):
    train(Own(policy=tiny_model_dir), tmp_path, [])


def test_an_averaged_loss_is_refused(tiny_model_dir, tmp_path):
    module = Own(policy=tiny_model_dir)
    module.averaged = True
    with pytest.raises(ConfigError, match="one loss for each example"):
        train(module, tmp_path, [])


def test_checkpoints_of_ones_own_stand_beside_ours(tiny_model_dir, tmp_path):
    own = ModelCheckpoint(monitor="val/loss", filename="best")
    file = write_pairs(tmp_path)

    def fit(steps: int, resume: str | None) -> Trainer:
        trainer = Trainer(
            default_root_dir=str(tmp_path / "run"), accelerator="cpu", max_steps=steps, callbacks=[own],
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        data = PreferenceDataModule(file, validation=file, batch_size=7, cache_dir=str(tmp_path / "cache"))
        trainer.fit(DPO(policy=tiny_model_dir), data, ckpt_path=resume)
        return trainer

    fit(4, None)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "step=4.ckpt"}
    fit(6, "last")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [row["step"] for row in map(json.loads, lines) if "loss" in row] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [
        ("IPO", {}, "method: DPO then, IPO now"),
        ("DPO", {"beta": 0.5}, "model.beta: 0.1 then, 0.5 now"),
        ("DPO", {"reference": "none"}, "model.reference: auto then, none now"),
    ],
)
def test_another_method_does_not_go_on(tiny_model_dir, tmp_path, method, settings, named):
    train(DPO(policy=tiny_model_dir), tmp_path, callbacks())
    other = getattr(lit_align, method)(policy=tiny_model_dir, **settings)
    path = tmp_path / "checkpoints" / f"step={STEPS - 2}.ckpt"
    with pytest.raises(ConfigError, match=named):
        train(other, tmp_path, callbacks(), resume=str(path))
    allowed = [ExactResume(allow_changes=True), RunCheckpoint(every_n_steps=2, keep=-1)]
    train(getattr(lit_align, method)(policy=tiny_model_dir, **settings), tmp_path, allowed, resume=str(path))


def test_lines_do_not_tell_of_a_restart(tiny_model_dir, tmp_path):
    """Metrics of logged steps alone come first in a run that begins with such a step, and last in any other."""
    file = write_pairs(tmp_path)

    def fit(folder: str, *more: L.Callback, resume: str | None = None) -> bytes:
        trainer = Trainer(
            default_root_dir=str(tmp_path / folder), accelerator="cpu", max_steps=7, log_every_n_steps=3,
            callbacks=[RunCheckpoint(every_n_steps=1), *more], enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with suppress(InterruptedError):
            data = PreferenceDataModule(file, batch_size=2, cache_dir=str(tmp_path / "cache"))
            trainer.fit(DPO(policy=tiny_model_dir), data, ckpt_path=resume)
        return (tmp_path / folder / "metrics.jsonl").read_bytes()

    whole = fit("whole")
    fit("killed", Crash(5))
    assert fit("killed", resume="last") == whole
