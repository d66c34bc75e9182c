"""The penalty that keeps fine-tuning sparse: its value, that it counts once, and that it needs adapters."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer

import lit_align
from lit_align import PreferenceDataModule, SparseSFT
from lit_align.callbacks import LoRA
from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.outputs import reduce_terms
from lit_align.core.policy import LoRASpec
from lit_align.methods.paft import l1_norm
from tests.cases.row import t
from tests.methods.scoring import collated, make_examples, ready

SPEC = LoRASpec(r=2, target_modules=("q_proj", "embed_tokens"))


def deltas(module) -> list[torch.Tensor]:
    """What the adapters add to the weights, from the names of their factors."""
    factors = {name: p.detach() for name, p in module.policy.model.named_parameters() if "lora_" in name}
    return [factors[name.replace("_A", "_B")] @ value * (32.0 / 2) for name, value in factors.items() if "_A" in name]


def batch_of(module):
    return collated(module, make_examples(DataKind.DEMONSTRATIONS), Layout.SHARED)


def test_the_published_vector():
    """A negative log-likelihood of 1.25, and a change of weights that the penalty is taken of."""
    delta = t(0.2, -0.1, 0.0, 0.4).requires_grad_()
    norm = l1_norm(delta)
    assert 1.25 + 0.01 * norm.item() == pytest.approx(1.257)
    norm.backward()
    assert delta.grad.tolist() == [1, -1, 0, 1]


@pytest.mark.parametrize("l1_on", ["product", "factors"])
def test_the_penalty_is_that_of_all_adapters(l1_on, tiny_model_dir):
    module = ready("SparseSFT", tiny_model_dir, lora=SPEC, l1_weight=0.01, l1_on=l1_on)
    factors = [p.detach() for p in module.policy.parameters() if p.requires_grad]
    expected = sum(part.abs().sum().item() for part in (deltas(module) if l1_on == "product" else factors))
    terms, batch = module.terms(batch_of(module)), batch_of(module)
    assert expected > 1
    penalty = reduce_terms({"l1": terms["l1"]}, batch.counts())
    assert penalty.item() == pytest.approx(0.01 * expected, rel=1e-6)
    likelihood = reduce_terms({"nll": terms["nll"]}, batch.counts())
    plain = ready("SFT", tiny_model_dir, lora=SPEC)
    assert likelihood.item() == pytest.approx(reduce_terms(plain.terms(batch), batch.counts()).item())


def test_its_gradient_is_that_of_the_products(tiny_model_dir):
    module = ready("SparseSFT", tiny_model_dir, lora=SPEC, l1_weight=0.01)
    batch = batch_of(module)
    reduce_terms({"l1": module.terms(batch)["l1"]}, batch.counts()).backward()
    factors = {name: p for name, p in module.policy.model.named_parameters() if p.requires_grad}
    for name, first in factors.items():
        if "_A" not in name:
            continue
        a, b = (x.detach().requires_grad_() for x in (first, factors[name.replace("_A", "_B")]))
        (0.01 * (b @ a * (32.0 / 2)).abs().sum()).backward()
        torch.testing.assert_close(first.grad, a.grad)
        torch.testing.assert_close(factors[name.replace("_A", "_B")].grad, b.grad)


@pytest.fixture
def demonstrations(tmp_path) -> str:
    rows = [{"prompt": f"say {i} ", "completion": "yes " * (1 + i % 3)} for i in range(8)]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "sft.jsonl")


def fit(folder: str, file: str, tmp_path, accumulate: int = 1, batch_size: int = 8, callbacks=(), **settings):
    module = SparseSFT(policy=folder, dtype="float64", warmup_ratio=0.0, **settings)
    trainer = Trainer(
        accelerator="cpu", max_steps=3, accumulate_grad_batches=accumulate, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        use_distributed_sampler=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    data = PreferenceDataModule(
        file, batch_size=batch_size, shuffle=False, bucket=False, cache_dir=str(tmp_path / "cache")
    )
    trainer.fit(module, data)
    return module


def test_the_penalty_counts_once_for_each_optimiser_step(tiny_model_dir, demonstrations, tmp_path):
    """So heavy that a second time would double the change of weights."""
    runs = [
        fit(
            tiny_model_dir, demonstrations, tmp_path, accumulate, 8 // accumulate, [LoRA(r=2)], l1_weight=1.0,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3), schedule="constant",
        )
        for accumulate in (1, 4)
    ]  # fmt: skip
    trained = [torch.cat([p.flatten() for p in run.policy.parameters() if p.requires_grad]) for run in runs]
    torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-7)
    assert runs[0].last_step.metrics["loss"] == pytest.approx(runs[1].last_step.metrics["loss"], rel=1e-6)


def test_it_makes_the_change_of_weights_small(tiny_model_dir, demonstrations, tmp_path):
    norms = []
    for weight in (0.0, 1e-2):
        settings = {"l1_weight": weight, "learning_rate": 1e-2, "callbacks": [LoRA(r=2)]}
        policy = fit(tiny_model_dir, demonstrations, tmp_path, **settings).policy
        layers = [layer for layer in policy.modules() if hasattr(layer, "get_delta_weight")]
        norms.append(sum(layer.get_delta_weight("default").abs().sum().item() for layer in layers))
    assert norms[1] < 0.8 * norms[0]


def test_without_adapters_it_is_refused(tiny_model_dir, demonstrations, tmp_path):
    with pytest.raises(ConfigError, match="needs a callback that provides 'adapters'"):
        fit(tiny_model_dir, demonstrations, tmp_path)


def test_a_policy_without_adapters_is_measured_by_its_likelihood(tiny_model_dir):
    module = lit_align.SparseSFT(policy=tiny_model_dir)
    assert set(ready("SparseSFT", tiny_model_dir).terms(batch_of(module))) == {"nll"}


def test_sharded_adapters_are_refused(tiny_model_dir):
    module = SparseSFT(policy=tiny_model_dir)
    module.trainer = lit_align.Trainer(strategy="fsdp2", devices=2, accelerator="cpu", callbacks=[LoRA(r=2)])
    with pytest.raises(ConfigError, match="adds up whole adapters"):
        module.setup("fit")
