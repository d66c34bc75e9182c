"""What 16-bit precision must not touch: counts, the reward head's scores, and the optimiser's clipping."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lit_align import DPO, SFT, BradleyTerry, PreferenceDataModule
from lit_align.core.metrics import Meter


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> str:
    """Eight pairs."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"Sum {i}: ", "chosen": f"{i} and " * (i + 1), "rejected": "no"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fit(module, file, folder, precision, **data):
    """Two optimiser steps with clipping."""
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, precision=precision, gradient_clip_val=1.0, default_root_dir=str(folder),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, inference_mode=False,
    )  # fmt: skip
    trainer.fit(module, PreferenceDataModule(file, batch_size=4, cache_dir=str(folder / "cache"), **data))
    return module


def test_counts_are_exact_whatever_the_default_dtype():
    meter = Meter()
    torch.set_default_dtype(torch.bfloat16)
    meter.add("x", torch.tensor(12345.0, dtype=torch.float64), count=12345)
    meter.add("y", torch.ones(12345, dtype=torch.float64))
    assert meter.compute() == {"x": 1.0, "y": 1.0}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_first_loss_is_log_two_in_every_precision(precision, tiny_model_dir, pairs_file, tmp_path):
    module = fit(DPO(policy=tiny_model_dir, learning_rate=0.0), pairs_file, tmp_path, precision)
    assert module.last_step.metrics["loss"] == pytest.approx(0.693147, abs=1e-3)


def test_token_means_are_exact_in_bf16(tiny_model_dir, pairs_file, tmp_path):
    module = fit(
        SFT(policy=tiny_model_dir, learning_rate=0.0), pairs_file, tmp_path, "bf16-true", convert="pairs_to_chosen"
    )
    metrics = module.last_step.metrics
    assert metrics["loss"] == metrics["nll_loss"]
    assert metrics["loss"] == pytest.approx(module.last_step.loss.item(), rel=1e-9)


def test_reward_scores_keep_float32_under_autocast(tiny_model_dir, pairs_file, tmp_path):
    module = fit(BradleyTerry(policy=tiny_model_dir), pairs_file, tmp_path, "bf16-mixed")
    # Single scores: a mean of rounded ones would not look rounded.
    scores = torch.tensor([module.last_step.metrics[name] for name in ("min_reward", "max_reward")])
    assert (scores != scores.bfloat16()).all()


def test_default_optimiser_can_be_clipped_under_autocast_on_a_gpu(tiny_model_dir, pairs_file, tmp_path, monkeypatch):
    """On a GPU the default optimiser is fused, which Lightning refuses to clip under autocast."""
    fused = []

    def recording(*args, **kwargs):
        fused.append(kwargs.pop("fused"))
        return torch.optim.AdamW(*args, **kwargs)

    monkeypatch.setattr("lit_align.core.optimisation.AdamW", recording)
    monkeypatch.setattr(DPO, "device", torch.device("cuda"), raising=False)
    module = DPO(policy=tiny_model_dir, lr_scheduler=torch.optim.lr_scheduler.ConstantLR)
    module.policy = torch.nn.Linear(2, 2)
    for precision, expected in (("bf16-mixed", False), ("32-true", True)):
        module._trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
        module.configure_optimizers()
        assert fused.pop() is expected
