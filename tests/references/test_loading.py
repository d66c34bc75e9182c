"""`load_from_checkpoint`: outside a run the checkpoint alone says how the policy and its reference were built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lit_align
from lit_align import DPO
from lit_align.callbacks import LoRA, ReferenceSync, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.core.module import AlignmentModule
from tests.runs import STEPS, train

CALLBACKS = {
    "whole": lambda: [],
    "lora": lambda: [LoRA(r=2, target_modules=["q_proj", "v_proj"])],
    "refreshed copy": lambda: [ReferenceSync(alpha=0.5, every_n_steps=3)],
    "refreshed adapter": lambda: [LoRA(r=2, target_modules=["q_proj"]), ReferenceSync(alpha=0.5, every_n_steps=3)],
}


def weights(module: AlignmentModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def logits(module: AlignmentModule) -> torch.Tensor:
    with module.policy.plain(), torch.no_grad():
        return module.policy.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


@pytest.mark.parametrize("callbacks", CALLBACKS.values(), ids=CALLBACKS)
def test_what_was_trained_comes_back(tiny_model_dir, tmp_path, callbacks):
    module = DPO(policy=tiny_model_dir, learning_rate=1e-3)
    train(module, tmp_path, [*callbacks(), RunCheckpoint(every_n_steps=0)])
    path = tmp_path / "checkpoints" / f"step={STEPS}.ckpt"
    loaded = DPO.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    torch.testing.assert_close(weights(loaded), weights(module), rtol=0, atol=0)
    assert loaded.policy_spec == module.policy_spec
    assert type(loaded.reference) is type(module.reference)
    torch.testing.assert_close(logits(loaded), logits(module), rtol=0, atol=0)


def test_the_policy_may_have_moved(tiny_model_dir, tmp_path):
    module = DPO(policy=tiny_model_dir, learning_rate=1e-3)
    train(module, tmp_path, [LoRA(r=2), RunCheckpoint(every_n_steps=0)])
    moved = Path(tiny_model_dir).rename(Path(tiny_model_dir).with_name("moved"))
    try:
        path = tmp_path / "checkpoints" / f"step={STEPS}.ckpt"
        loaded = DPO.load_from_checkpoint(path, policy=str(moved), map_location="cpu", weights_only=True)
    finally:
        moved.rename(tiny_model_dir)
    torch.testing.assert_close(weights(loaded), weights(module), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["SimPO", "ORPO", "SFT", "BradleyTerry"])
def test_a_reference_for_a_method_without_one(name):
    with pytest.raises(ConfigError, match=f"{name} compares with no reference"):
        getattr(lit_align, name)(policy="any", reference="frozen_copy")
    for choice in ("auto", "none"):
        getattr(lit_align, name)(policy="any", reference=choice)
