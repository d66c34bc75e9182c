"""LoRA: only adapters are trained and saved, the base serves as reference, and a crashed run goes on exactly."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_align.callbacks import ExactResume, LoRA, QLoRA, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.data.module import PreferenceDataModule
from lit_align.methods.bradley_terry import BradleyTerry
from lit_align.methods.dpo import DPO
from tests.runs import Crash, Losses, train, write_pairs

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])


def fit(model: str, root: Path, callbacks, method=DPO, resume: str | None = None):
    """Train with a checkpoint after every step; returns the module, the losses and the trainer."""
    L.seed_everything(3, verbose=False)
    module = method(policy=model, learning_rate=1e-2)
    losses = Losses()
    everything = [ExactResume(), RunCheckpoint(every_n_steps=1, keep=-1), losses, *callbacks]
    trainer = train(module, root, everything, resume=resume)
    return module, losses.values, trainer


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    module, _, trainer = fit(tiny_model_dir, root, [LoRA(r=4, dropout=0.1)])
    return module, trainer, root


def test_only_adapters_are_trained(trained, tiny_model_dir):
    module, *_ = trained
    model = module.policy.model
    assert {name.split(".")[-3] for name, p in module.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    before = build_policy(PolicySpec(tiny_model_dir)).eval()
    with torch.no_grad(), module.policy.plain():
        expected = before(input_ids=IDS).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, expected)
        assert not torch.equal(model(input_ids=IDS).logits, expected)


def test_checkpoint_holds_adapters_and_plain_types_only(trained):
    *_, root = trained
    checkpoint = torch.load(root / "checkpoints" / "step=8.ckpt", weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert PolicySpec.from_dict(checkpoint["lit_align"]["policy_spec"]).lora == LoRA(r=4, dropout=0.1).spec


@pytest.mark.parametrize(
    "make", [lambda: LoRA(r=4, dropout=0.1), lambda: QLoRA(r=4, dropout=0.1)], ids=["lora", "qlora"]
)
def test_crash_and_resume_give_the_same_bits(make, tiny_model_dir, tmp_path):
    whole, losses, _ = fit(tiny_model_dir, tmp_path / "whole", [make()])
    fit(tiny_model_dir, tmp_path / "cut", [make(), Crash(step=3)])
    resumed, rest, _ = fit(tiny_model_dir, tmp_path / "cut", [make()], resume="last")
    # Step 3 was done but not yet saved.
    assert rest == losses[4:]
    first, second = whole.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_after_fit_keeps_the_adapters(trained, tmp_path):
    module, trainer, _ = trained
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    pairs = PreferenceDataModule(validation=write_pairs(tmp_path), batch_size=2, cache_dir=str(tmp_path))
    trainer.validate(module, pairs, verbose=False)
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())


def test_reward_head_is_trained_and_saved(tiny_model_dir, tmp_path):
    module, *_ = fit(tiny_model_dir, tmp_path, [LoRA(r=2)], method=BradleyTerry)
    assert sum("score.modules_to_save" in name for name in module.state_dict()) == 1


def test_says_how_many_parameters_are_trained(trained, caplog):
    module, trainer, _ = trained
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        LoRA(r=4).on_fit_start(trainer, module)
    assert "LoRA: 3,712 of 36,128 parameters are trained (10.27 %)" in caplog.text


class TestRefusals:
    def setup_with(self, callbacks, module) -> None:
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks)
        for callback in callbacks:
            callback.setup(trainer, module, "fit")

    @pytest.mark.parametrize("callbacks", [[LoRA(), LoRA(r=2)], [LoRA(), QLoRA()]])
    def test_two_sets_of_adapters(self, callbacks):
        with pytest.raises(ConfigError, match="keep one of LoRA and QLoRA"):
            self.setup_with(callbacks, DPO(policy="unused"))

    def test_other_modules(self):
        with pytest.raises(ConfigError, match="of lit-align"):
            self.setup_with([LoRA()], L.LightningModule())

    def test_policy_that_is_already_built(self, tiny_model_dir):
        module = DPO(policy=tiny_model_dir, reference="frozen_copy")
        module.configure_model()
        with pytest.raises(ConfigError, match="built without adapters"):
            self.setup_with([LoRA()], module)

    def test_other_adapters(self):
        module = DPO(policy="unused")
        self.setup_with([LoRA(r=2)], module)
        self.setup_with([LoRA(r=2)], module)
        with pytest.raises(ConfigError, match="other adapters"):
            self.setup_with([LoRA(r=4)], module)
