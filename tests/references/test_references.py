"""Every source of reference log-probabilities gives the same values, and says when it cannot serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lit_align import DPO, PreferenceDataModule
from lit_align.callbacks import LoRA, QLoRA, ReferenceSync
from lit_align.core.errors import ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.references import resolve_reference


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> str:
    """Six pairs."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"Count {i}: ", "chosen": "one two " * (i + 1), "rejected": f"none {i}"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fit(module: AlignmentModule, file: str, folder: Path, callbacks: Any = (), **data: Any) -> AlignmentModule:
    """Three optimiser steps."""
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_steps=3, callbacks=list(callbacks), default_root_dir=str(folder), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, PreferenceDataModule(file, batch_size=2, cache_dir=str(folder / "cache"), **data))
    return module


def weights(module: AlignmentModule) -> torch.Tensor:
    """The trained weights, flat."""
    return torch.cat([p.detach().flatten() for p in module.policy.parameters() if p.requires_grad])


def dpo(model: str, **kwargs: Any) -> DPO:
    """DPO with steps that show."""
    return DPO(policy=model, learning_rate=1e-2, warmup_ratio=0.0, **kwargs)


def test_auto_copies_without_adapters_and_switches_them_off_with_them():
    names = [
        type(resolve_reference("auto", has_adapters=a, will_refresh=r)).__name__
        for a, r in ((False, False), (False, True), (True, False), (True, True))
    ]
    assert names == ["FrozenCopy", "FrozenCopy", "AdaptersOff", "NamedAdapter"]


def test_unknown_reference_lists_the_known():
    with pytest.raises(ConfigError, match=r"(?s)reference: frozen.*one of auto, frozen_copy"):
        resolve_reference("frozen", has_adapters=False, will_refresh=False)


def test_adapters_off_is_the_base_model(tiny_model_dir, pairs_file, tmp_path):
    lora = [LoRA(r=4)]
    switched = fit(dpo(tiny_model_dir), pairs_file, tmp_path, lora)
    assert type(switched.reference).__name__ == "AdaptersOff"
    copied = fit(dpo(tiny_model_dir, reference="frozen_copy"), pairs_file, tmp_path, [LoRA(r=4)])
    torch.testing.assert_close(weights(switched), weights(copied), rtol=0, atol=1e-6)


def test_named_adapter_that_is_not_refreshed_is_the_base_model(tiny_model_dir, pairs_file, tmp_path):
    named = fit(dpo(tiny_model_dir, reference="named_adapter"), pairs_file, tmp_path, [LoRA(r=4)])
    switched = fit(dpo(tiny_model_dir), pairs_file, tmp_path, [LoRA(r=4)])
    assert torch.equal(weights(named), weights(switched))
    assert not any(".reference." in name for name in named.state_dict())


def test_named_adapter_needs_adapters(tiny_model_dir, pairs_file, tmp_path):
    with pytest.raises(ConfigError, match="named_adapter needs a policy with adapters"):
        fit(dpo(tiny_model_dir, reference="named_adapter"), pairs_file, tmp_path)


@pytest.mark.parametrize("alpha", [1.0, 0.6])
@pytest.mark.parametrize("adapters", [False, True])
def test_refresh_moves_the_reference_and_puts_it_into_the_checkpoint(
    alpha, adapters, tiny_model_dir, pairs_file, tmp_path
):
    callbacks = [ReferenceSync(alpha=alpha, every_n_steps=3), *([LoRA(r=4)] if adapters else [])]
    module = fit(dpo(tiny_model_dir), pairs_file, tmp_path, callbacks)
    still = fit(dpo(tiny_model_dir), pairs_file, tmp_path, callbacks[1:])
    name = next(n for n in module.state_dict() if "q_proj" in n and "lora_A" not in n and "reference" not in n)
    policy = module.state_dict()[name]
    if adapters:
        mine, start = module.state_dict()[name.replace(".default.", ".reference.")], torch.zeros_like(policy)
    else:
        mine = module.state_dict()[name.replace("policy.", "reference.scorer.", 1)]
        start = dict(still.reference.named_parameters())[name.replace("policy.", "scorer.", 1)]
    torch.testing.assert_close(mine, alpha * policy + (1 - alpha) * start)


def test_none_is_the_reference_free_form(tiny_model_dir, pairs_file, tmp_path):
    module = fit(dpo(tiny_model_dir, reference="none"), pairs_file, tmp_path)
    metrics = module.last_step.metrics
    assert metrics["rewards/chosen"] == pytest.approx(0.1 * metrics["logps/chosen"])


def test_frozen_copy_of_a_quantised_policy_can_be_refreshed(tiny_model_dir, pairs_file, tmp_path):
    callbacks = [QLoRA(r=4), ReferenceSync(alpha=0.5, every_n_steps=2)]
    module = fit(dpo(tiny_model_dir, reference="frozen_copy"), pairs_file, tmp_path, callbacks)
    assert module.reference.is_state
