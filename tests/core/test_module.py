"""What the base of every method keeps count of: metrics of unfinished windows, and those of held-out rows apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_align import DPO, PreferenceDataModule
from lit_align.callbacks import ExactResume
from lit_align.core.errors import ConfigError
from tests.runs import train, write_pairs


class Save(L.Callback):
    """A checkpoint inside an accumulation window, such as `RunCheckpoint` never writes."""

    def __init__(self, path: Path, micro_batch: int) -> None:
        self.path, self.micro_batch = path, micro_batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 0 and batch_idx == self.micro_batch:
            trainer.save_checkpoint(self.path)


class Steps(L.Callback):
    """Keeps the metrics of every optimiser step."""

    def __init__(self) -> None:
        self.metrics: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.metrics[trainer.global_step] = pl_module.last_step.metrics


@pytest.fixture
def inside_a_window(tiny_model_dir, tmp_path) -> tuple[Path, Steps]:
    """A checkpoint after the third micro-batch, the first one of the second step; metrics of the whole run."""
    path, steps = tmp_path / "inside.ckpt", Steps()
    train(dpo(tiny_model_dir), tmp_path, [ExactResume(), Save(path, 2), steps])
    return path, steps


def dpo(model: str) -> DPO:
    """DPO with steps that show."""
    return DPO(policy=model, learning_rate=1e-2, warmup_ratio=0.0)


def test_metrics_of_an_unfinished_window_survive_a_restart(inside_a_window, tiny_model_dir, tmp_path):
    path, expected = inside_a_window
    resumed = Steps()
    train(dpo(tiny_model_dir), tmp_path, [ExactResume(), resumed], resume=str(path))
    assert torch.load(path, weights_only=True)["lit_align"]["meter"]["sums"], "the window is unfinished"
    assert resumed.metrics[2] == expected.metrics[2]
    assert resumed.metrics[8] == expected.metrics[8]


def quiet(folder: Path, **settings: Any) -> L.Trainer:
    """A trainer that leaves nothing behind."""
    return L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=str(folder), use_distributed_sampler=False, **settings
    )  # fmt: skip


def held_out(file: str, folder: Path) -> PreferenceDataModule:
    """The same rows for every stage."""
    return PreferenceDataModule(file, validation=file, test=file, batch_size=2, cache_dir=str(folder / "cache"))


def test_a_validation_inside_a_window_keeps_metrics_apart(tiny_model_dir, tmp_path):
    """With a learning rate of 0 held-out metrics never change, whatever the window has collected before them."""
    data, apart, seen = held_out(write_pairs(tmp_path), tmp_path), Steps(), []

    class Seen(L.Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            seen.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    settings = {"max_steps": 3, "accumulate_grad_batches": 2}
    module = DPO(policy=tiny_model_dir, learning_rate=0.0)
    often = {"val_check_interval": 1, "num_sanity_val_steps": 0, "callbacks": [apart, Seen()]}
    quiet(tmp_path, **settings, **often).fit(module, data)
    (expected,) = quiet(tmp_path).validate(module, data, verbose=False)
    assert len(seen) == 6
    assert all(metrics == expected for metrics in seen)

    without = Steps()
    module = DPO(policy=tiny_model_dir, learning_rate=0.0)
    quiet(tmp_path, **settings, callbacks=[without], limit_val_batches=0).fit(module, data)
    assert apart.metrics == without.metrics


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_metrics_of_held_out_rows_are_theirs_alone(verb, inside_a_window, tiny_model_dir, tmp_path):
    """The checkpoint's unfinished window has metrics of training rows, which are no business of `test`."""
    path, _ = inside_a_window
    data, module = held_out(write_pairs(tmp_path), tmp_path), dpo(tiny_model_dir)

    def metrics(**checkpoint: Any) -> dict[str, float]:
        (result,) = getattr(quiet(tmp_path), verb)(module, data, verbose=False, **checkpoint)
        return result

    first = metrics(ckpt_path=str(path), weights_only=True)
    # The same weights again, with nothing restored.
    assert metrics() == first


@pytest.mark.parametrize(("rank", "tokens"), [(0, 123.0), (1, 0.0)])
def test_restored_tokens_count_on_one_rank(rank, tokens):
    """The checkpoint holds the sum over ranks, and it is summed again."""
    checkpoint: dict[str, Any] = {}
    saved = DPO(policy="unused")
    saved.num_tokens = 123.0
    saved.on_save_checkpoint(checkpoint)
    restored = type("OnRank", (DPO,), {"global_rank": rank})(policy="unused")
    restored.on_load_checkpoint(checkpoint)
    assert restored.num_tokens == tokens


def test_steps_of_changing_size_are_refused(tiny_model_dir, tmp_path):
    scheduler = L.pytorch.callbacks.GradientAccumulationScheduler({0: 2, 1: 4})
    module, data = DPO(policy=tiny_model_dir), PreferenceDataModule(write_pairs(tmp_path))
    with pytest.raises(ConfigError, match="GradientAccumulationScheduler"):
        quiet(tmp_path, callbacks=[scheduler]).fit(module, data)
