"""TR-DPO: when the reference is refreshed, by how much, and that a killed run has the same one."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lit_align.callbacks import ReferenceSync, RunCheckpoint
from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.references import FrozenCopy, Reference
from tests.callbacks.toy import Kill, ToyModule, assert_same_run, train
from tests.launch import RankError, launch


def vector(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Watch(Callback):
    """Notes policy and reference after every batch; stands behind ReferenceSync."""

    def __init__(self) -> None:
        self.policy: list[torch.Tensor] = []
        self.reference: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        self.start = vector(pl_module.reference)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.policy.append(vector(pl_module.policy))
        self.reference.append(vector(pl_module.reference))


@pytest.mark.parametrize(("alpha", "every", "accumulate"), [(0.6, 1, 1), (1.0, 4, 1), (0.3, 2, 3)])
def test_the_reference_follows_every_n_optimiser_steps(tmp_path, alpha, every, accumulate):
    watch, sync = Watch(), ReferenceSync(alpha, every)
    train(tmp_path, sync, watch, accumulate_grad_batches=accumulate, max_epochs=1)
    expected, step = watch.start, 0
    for batch in range(13):
        if (batch + 1) % accumulate == 0 or batch == 12:
            step += 1
            if step % every == 0:
                expected = alpha * watch.policy[batch] + (1 - alpha) * expected
        torch.testing.assert_close(watch.reference[batch], expected, rtol=1e-6, atol=1e-7)
    assert sync.refreshed_at == step // every * every


class Numbers(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.model = nn.ParameterList([torch.tensor(values, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("alpha", "every", "policy_after_step", "initial", "expected"),
    [
        (0.6, 1, [[1.0, -2.0, 0.5]], [0.0, 1.0, 0.5], [[0.6, -0.8, 0.5]]),
        (1.0, 1, [[1.0, -2.0, 0.5]], [0.0, 1.0, 0.5], [[1.0, -2.0, 0.5]]),
        (0.5, 2, [[k] for k in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)], [0.0], [[0.0], [1.0], [1.0], [2.5], [2.5], [4.25]]),
    ],
)
def test_vectors(alpha, every, policy_after_step, initial, expected):
    """Values of the paper's update rule, worked out by hand and by two other implementations."""
    reference = FrozenCopy.__new__(FrozenCopy)
    Reference.__init__(reference)
    reference.scorer = Numbers(initial)
    policy = Numbers(initial)
    module = type("Module", (), {"policy": policy, "reference": reference})
    trainer = type("Trainer", (), {"global_step": 0})
    sync = ReferenceSync(alpha, every)
    for step, (now, after) in enumerate(zip(policy_after_step, expected, strict=True), start=1):
        policy.model[0].data = torch.tensor(now, dtype=torch.float64)
        for trainer.global_step in (step - 1, step, step):
            sync.on_train_batch_end(trainer, module, None, None, 0)
        assert reference.scorer.model[0].tolist() == pytest.approx(after, abs=1e-12)


@pytest.mark.parametrize(
    ("hook", "count"), [("on_train_batch_end", 7), ("on_before_optimizer_step", 5), ("on_validation_start", 5)]
)
def test_a_killed_run_has_the_same_reference(tmp_path, hook, count):
    settings = {"accumulate_grad_batches": 2, "val_check_interval": 4}
    sync = ReferenceSync(0.6, 3)
    whole = train(tmp_path / "whole", sync, **settings)
    folder = tmp_path / "killed"
    with pytest.raises(RankError, match="died"):
        launch(train, folder, ReferenceSync(0.6, 3), Kill(hook, count), world=1, **settings)
    again = ReferenceSync(0.6, 3)
    resumed = train(folder, again, ckpt_path="last", **settings)
    assert_same_run(whole, resumed, tmp_path / "whole", folder)
    assert not torch.equal(vector(whole.reference), vector(ToyWithReference().reference)), "it was refreshed"
    assert again.refreshed_at == sync.refreshed_at == 12


def ToyWithReference() -> ToyModule:
    module = ToyModule()
    module.configure_model()
    return module


def test_the_step_of_the_last_refresh_is_in_the_checkpoint(tmp_path):
    train(tmp_path, ReferenceSync(0.6, 3), checkpoint=RunCheckpoint(every_n_steps=4, keep=-1), max_epochs=1)
    saved = torch.load(tmp_path / "checkpoints" / "step=8.ckpt", weights_only=True)
    assert saved["callbacks"]["ReferenceSync"] == {"refreshed_at": 6}


@pytest.mark.parametrize("step", [4, 6])
def test_a_resumed_run_does_not_refresh_again(tmp_path, step):
    """Where it starts on the step of a refresh, the first micro-batch ends with the step's number unchanged."""
    settings = {"accumulate_grad_batches": 2, "max_epochs": 1}
    sync, again = ReferenceSync(0.6, 4), ReferenceSync(0.6, 4)
    whole = train(tmp_path, sync, checkpoint=RunCheckpoint(every_n_steps=2, keep=-1), **settings)
    resumed = train(tmp_path, again, ckpt_path=str(tmp_path / "checkpoints" / f"step={step}.ckpt"), **settings)
    assert torch.equal(vector(resumed.reference), vector(whole.reference))
    assert again.refreshed_at == sync.refreshed_at == 4


def sharded_run(folder, sharded):
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if sharded else "ddp"
    module = train(
        folder, ReferenceSync(0.6, 2), module=ToyModule(dropout=0.0), devices=2, strategy=strategy,
        accumulate_grad_batches=2, max_epochs=2, limit_val_batches=0,
    )  # fmt: skip
    return [getattr(p, "full_tensor", lambda p=p: p)().flatten() for p in module.reference.parameters()]


def test_sharded_models_are_mixed_shard_by_shard(tmp_path):
    replicated = launch(sharded_run, tmp_path / "ddp", False)
    sharded = launch(sharded_run, tmp_path / "fsdp2", True)
    for rank in (0, 1):
        torch.testing.assert_close(torch.cat(sharded[rank]), torch.cat(replicated[rank]), rtol=0, atol=1e-6)


def test_the_module_is_told_before_it_builds():
    assert ReferenceSync.provides == {Capability.REFERENCE_REFRESH}
    module = ToyModule()
    ReferenceSync().setup(None, module, "validate")
    assert module.reference_will_refresh


class Fixed(Reference):
    def token_logps(self, rows):
        return rows[:, :1]


@pytest.mark.parametrize(("reference", "got"), [(Fixed(), "reference: Fixed"), (None, "uses no reference")])
def test_references_that_cannot_change_are_refused(tmp_path, reference, got):
    module = ToyWithReference()
    module.reference = reference
    with pytest.raises(ConfigError, match=got) as caught:
        train(tmp_path, ReferenceSync(), module=module)
    assert caught.value.fix


def test_a_run_too_short_for_a_refresh_is_told(tmp_path):
    with pytest.warns(UserWarning, match="training ends after 26 optimiser steps"):
        train(tmp_path, ReferenceSync())


@pytest.mark.parametrize("setting", [{"alpha": 0.0}, {"alpha": 1.5}, {"every_n_steps": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        ReferenceSync(**setting)
