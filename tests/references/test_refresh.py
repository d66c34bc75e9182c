"""A refresh changes the reference as documented, and what the next batch is compared with."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from lit_align import DPO
from lit_align.callbacks import ExactResume, LoRA, ReferenceSync, RunCheckpoint
from lit_align.core.batch import DataKind, Layout
from lit_align.core.kinds import pair_up
from lit_align.core.policy import LoRASpec
from lit_align.methods.dpo import dpo_loss
from lit_align.references import FrozenCopy, NamedAdapter
from tests.methods.scoring import collated, make_examples, move, ready, scored
from tests.runs import STEPS, Crash, Losses, train

KINDS = {"frozen_copy": (FrozenCopy, None), "named_adapter": (NamedAdapter, LoRASpec(r=4, alpha=8))}
by_kind = pytest.mark.parametrize("kind", KINDS)


def dpo(kind: str, model: str, **kwargs: Any):
    """DPO on a moved policy, with a reference of the kind."""
    return ready("DPO", model, lora=KINDS[kind][1], reference=kind, beta=0.5, **kwargs)


def trained(module) -> dict[str, torch.Tensor]:
    """Copies of the weights that are trained."""
    return {name: p.detach().clone() for name, p in module.policy.named_parameters() if p.requires_grad}


def referred(module) -> dict[str, torch.Tensor]:
    """Copies of the reference's weights, by the names of the policy's that they follow."""
    if isinstance(module.reference, NamedAdapter):
        of = ".reference."
        return {n.replace(of, ".default."): p.detach().clone() for n, p in module.policy.named_parameters() if of in n}
    return {name: p.detach().clone() for name, p in module.reference.scorer.named_parameters()}


@by_kind
def test_a_reference_starts_with_the_weights_of_the_policy(kind, tiny_model_dir):
    """Also where they do nothing yet, as a factor A whose B is zero: a soft refresh mixes what stands there."""
    module = dpo(kind, tiny_model_dir, moved=False)
    policy, reference = trained(module), referred(module)
    assert policy.keys() == reference.keys()
    assert all(torch.equal(reference[name], value) for name, value in policy.items())


@by_kind
def test_a_soft_refresh_mixes_every_weight(kind, tiny_model_dir):
    module = dpo(kind, tiny_model_dir)
    policy, before = trained(module), referred(module)
    assert isinstance(module.reference, KINDS[kind][0])
    assert policy.keys() == before.keys()
    module.reference.refresh(module.policy, 0.3)
    for name, after in referred(module).items():
        assert not torch.equal(policy[name], before[name]), name
        torch.testing.assert_close(after, 0.3 * policy[name] + 0.7 * before[name], rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, policy[name]) for name, value in trained(module).items())
    assert module.reference.is_state


def test_factors_are_mixed_one_by_one_and_not_their_product(tiny_model_dir):
    module = dpo("named_adapter", tiny_model_dir)
    # A second refresh, from a reference whose B is no longer zero.
    module.reference.refresh(module.policy, 0.3)
    move(module.policy, seed=1)
    policy, before = trained(module), referred(module)
    assert {name.split(".")[-3] for name in policy} == {"lora_A", "lora_B"}
    module.reference.refresh(module.policy, 0.3)
    after = referred(module)
    for a in (name for name in policy if "lora_A" in name):
        b = a.replace("lora_A", "lora_B")
        product, old = policy[b] @ policy[a], before[b] @ before[a]
        assert not torch.allclose(after[b] @ after[a], 0.3 * product + 0.7 * old, rtol=1e-3)


@by_kind
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_next_loss_and_metrics_are_of_the_refreshed_weights(kind, alpha, tiny_model_dir):
    module = dpo(kind, tiny_model_dir)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    first = scored(module, batch)
    module.reference.refresh(module.policy, alpha)

    # A twin whose policy has the weights that the reference should have now.
    twin = copy.deepcopy(module.policy)
    with torch.no_grad():
        for name, value in referred(module).items():
            twin.get_parameter(name).copy_(value)
    reference = pair_up(twin.sequence_logps(batch.rows), batch)
    policy = pair_up(module.policy.sequence_logps(batch.rows), batch)

    second = scored(module, batch)
    torch.testing.assert_close(second.values, dpo_loss(policy, reference, 0.5).detach(), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(second.values, first.values, rtol=1e-3)
    margins = 0.5 * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))
    assert second.metrics["rewards/margins"] == pytest.approx(margins.mean().item(), rel=1e-5, abs=1e-6)
    assert second.metrics["logps/chosen"] == first.metrics["logps/chosen"]
    if alpha == 1.0:
        assert second.values.tolist() == pytest.approx([math.log(2)] * 4)
        assert second.metrics["rewards/chosen"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("adapters", [False, True], ids=["frozen_copy", "named_adapter"])
def test_a_reference_that_is_replaced_at_every_step_keeps_the_loss_at_log_two(adapters, tiny_model_dir, tmp_path):
    def losses(*callbacks: Any) -> list[float]:
        record = Losses()
        module = DPO(policy=tiny_model_dir, learning_rate=1e-2, warmup_ratio=0.0)
        train(module, tmp_path, [record, *callbacks, *([LoRA(r=4)] if adapters else [])])
        # Shares of their optimiser step's loss: of two micro-batches each, the last one of an epoch alone.
        epochs = record.values[:7], record.values[7:]
        return [sum(epoch[i : i + 2]) for epoch in epochs for i in range(0, 7, 2)]

    followed, left = losses(ReferenceSync(alpha=1.0, every_n_steps=1)), losses()
    assert followed == pytest.approx([math.log(2)] * STEPS, rel=1e-5)
    assert left[0] == followed[0]
    assert min(abs(loss - math.log(2)) for loss in left[1:]) > 1e-3


@pytest.mark.parametrize("adapters", [False, True], ids=["frozen_copy", "named_adapter"])
@pytest.mark.parametrize("crash", [1, 5])
def test_a_resumed_run_has_the_refreshed_reference(crash, adapters, tiny_model_dir, tmp_path):
    """Refreshed after steps 2, 4, 6, 8; a checkpoint from before the first refresh holds the reference already."""

    def run(folder: str, *callbacks: Any, resume: str | None = None) -> tuple[DPO, list[float]]:
        module, losses = DPO(policy=tiny_model_dir, learning_rate=1e-2, warmup_ratio=0.0), Losses()
        always = [ExactResume(), losses, ReferenceSync(alpha=0.6, every_n_steps=2), *([LoRA(r=4)] if adapters else [])]
        train(module, tmp_path / folder, [*always, *callbacks, RunCheckpoint(every_n_steps=1)], resume=resume)
        return module, losses.values

    through, losses = run("through")
    run("crashed", Crash(crash + 1))
    resumed, rest = run("crashed", resume="last")
    assert rest == losses[-len(rest) :]
    assert len(rest) == {1: 12, 5: 5}[crash]
    expected, found = referred(through), referred(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(value, trained(through)[name]) for name, value in trained(resumed).items())
