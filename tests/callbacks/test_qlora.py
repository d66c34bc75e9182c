"""QLoRA on a CPU: 4-bit weights that evaluate, train and reload as what they stand for."""

from __future__ import annotations

import bitsandbytes as bnb
import lightning as L
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from lit_align.callbacks import QLoRA
from lit_align.core.errors import ConfigError
from lit_align.core.policy import LoRASpec, PolicySpec, QuantizationSpec, build_policy
from lit_align.methods.dpo import DPO

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])


def build(folder: str, dtype: str = "float32", **settings):
    """A 4-bit policy whose adapters do something."""
    spec = PolicySpec(folder, dtype=dtype, seed=1, lora=LoRASpec(r=4), quantization=QuantizationSpec(**settings))
    policy = build_policy(spec)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return policy


def twin_of(policy, folder: str):
    """The same policy with 4-bit weights written out in float32."""
    twin = build_policy(PolicySpec(folder, lora=LoRASpec(r=4)))
    values = dict(policy.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            state = getattr(values[name], "quant_state", None)
            parameter.copy_(values[name] if state is None else dequantize_4bit(values[name].data, state))
    return twin


def adapters(policy) -> dict[str, torch.Tensor]:
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_outputs_and_gradients_are_those_of_the_dequantised_weights(tiny_model_dir, kind, double):
    policy = build(tiny_model_dir, kind=kind, double=double)
    twin = twin_of(policy, tiny_model_dir)
    losses = [model(input_ids=IDS, labels=IDS).loss for model in (policy, twin)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for (name, mine), theirs in zip(adapters(policy).items(), adapters(twin).values(), strict=True):
        assert mine.grad.isfinite().all(), name
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluation_does_not_spoil_training(tiny_model_dir, dtype):
    """bitsandbytes repacks weights at the first evaluation on some CPUs; gradients were wrong from then on."""
    fresh, used = build(tiny_model_dir, dtype), build(tiny_model_dir, dtype)
    with torch.no_grad():
        evaluated = used.eval()(input_ids=IDS).logits
    used.train()
    assert torch.equal(evaluated, used(input_ids=IDS).logits)
    for model in (fresh, used):
        model(input_ids=IDS, labels=IDS).loss.backward()
    for mine, theirs in zip(adapters(fresh).values(), adapters(used).values(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_flag_is_off_on_every_layer(tiny_model_dir):
    layers = [m for m in build(tiny_model_dir).modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_adapters_alone_restore_the_policy_bit_for_bit(tiny_model_dir, tmp_path):
    policy = build(tiny_model_dir)
    with torch.no_grad():
        policy.eval()(input_ids=IDS)
    torch.save({name: p.data for name, p in adapters(policy).items()}, tmp_path / "adapters.pt")
    again = build_policy(PolicySpec(tiny_model_dir, lora=LoRASpec(r=4), quantization=QuantizationSpec()))
    again.load_state_dict(torch.load(tmp_path / "adapters.pt", weights_only=True), strict=False)
    assert torch.equal(policy.train()(input_ids=IDS).logits, again(input_ids=IDS).logits)


def test_weights_are_packed_and_the_head_is_not(tiny_model_dir):
    policy = build(tiny_model_dir, storage="float32", compute_dtype="bfloat16")
    base = policy.get_base_model()
    layer = base.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.numel() * layer.weight.element_size() == 32 * 48 // 2
    assert layer.weight.dtype is torch.float32
    assert layer.compute_dtype is torch.bfloat16
    assert type(base.lm_head) is torch.nn.Linear


class TestCallback:
    def test_edits_how_the_policy_is_built(self, tiny_model_dir):
        module = DPO(policy=tiny_model_dir)
        callback = QLoRA(r=2, alpha=4, kind="fp4", double=False)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback])
        callback.setup(trainer, module, "fit")
        assert module.policy_spec.lora == LoRASpec(r=2, alpha=4)
        assert module.policy_spec.quantization == QuantizationSpec(kind="fp4", double=False)
        module.configure_model()
        assert all("lora_" in name for name in module.state_dict())

    def test_float64_is_refused(self):
        with pytest.raises(ConfigError, match="float32 or bfloat16"):
            QLoRA().adapt(PolicySpec("unused", dtype="float64"))

    def test_missing_bitsandbytes_is_named(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install bitsandbytes"):
            QLoRA().adapt(PolicySpec("unused"))
