"""A reference is never trained and never noisy, and asking it leaves the policy as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_align.core.batch import DataKind, Layout
from lit_align.core.policy import LoRASpec
from tests.methods.scoring import collated, make_examples, ready, scored

KINDS = {
    "frozen_copy": None,
    "frozen_copy of adapters": LoRASpec(r=4, dropout=0.5),
    "adapters_off": LoRASpec(r=4, dropout=0.5),
    "named_adapter": LoRASpec(r=4, dropout=0.5),
    "adapters_off beside a whole head": LoRASpec(r=4, dropout=0.5, modules_to_save=("lm_head",)),
    "named_adapter beside a whole head": LoRASpec(r=4, dropout=0.5, modules_to_save=("lm_head",)),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def module(kind: str, tiny_model_dir) -> Any:
    """DPO in training, with dropout."""
    return ready("DPO", tiny_model_dir, reference=kind.split()[0], lora=KINDS[kind], dropout=True).train()


@pytest.fixture
def batch(module) -> Any:
    return collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)


@by_kind
def test_dropout_is_in_the_policy_only(kind, module, batch):
    modes = [part.training for part in module.policy.modules()]
    first, second = (module.reference.logps(batch.rows).sums for _ in range(2))
    assert torch.equal(first, second)
    # Nor does it follow the module into training, as Lightning does after each validation.
    module.eval()
    assert torch.equal(module.reference.logps(batch.rows).sums, first)
    module.train()
    assert torch.equal(module.reference.logps(batch.rows).sums, first)
    assert [part.training for part in module.policy.modules()] == modes
    noisy = [module.policy.sequence_logps(batch.rows).sums for _ in range(2)]
    assert not torch.equal(*noisy)


@by_kind
def test_no_gradient_reaches_it(kind, module, batch):
    trained = {name for name, parameter in module.policy.named_parameters() if parameter.requires_grad}
    assert not any(parameter.requires_grad for parameter in module.reference.parameters())
    assert not any(".reference." in name for name in trained)
    assert not module.reference.logps(batch.rows).sums.requires_grad
    scored(module, batch)
    moved = {name for name, parameter in module.policy.named_parameters() if parameter.grad is not None}
    assert moved == trained
    assert {name for name, parameter in module.policy.named_parameters() if parameter.requires_grad} == trained
    assert all(parameter.grad is None for parameter in module.reference.parameters())
