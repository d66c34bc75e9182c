"""Digests of weights: of what training changes, and of a reference that is a model of its own."""

from __future__ import annotations

import pytest

from lit_align.callbacks import SPIN
from lit_align.core.policy import LoRASpec
from lit_align.loops.store import RoundFolder
from lit_align.loops.weights import known_folder, reference_digest, weights_digest
from tests.helpers import save_tiny_model
from tests.loops.loop_runs import dpo, run_loop, write_demonstrations
from tests.methods.scoring import move, ready


def test_a_reference_of_its_own_is_told_apart_by_its_weights(tiny_model_dir, tmp_path):
    folder = tmp_path / "other"

    def digest(seed: int) -> str | None:
        return reference_digest(ready("DPO", tiny_model_dir, reference=save_tiny_model(folder, seed)).reference)

    first, second = digest(1), digest(2)
    assert first
    assert second
    assert first != second, "two models of one name"
    assert digest(1) == first


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2)])
def test_a_reference_that_follows_from_the_policy_has_no_digest(lora, tiny_model_dir):
    assert reference_digest(ready("DPO", tiny_model_dir, lora=lora).reference) is None
    assert reference_digest(ready("SimPO", tiny_model_dir, lora=lora).reference) is None


def test_weights_that_are_not_trained_do_not_count(tiny_model_dir):
    module = ready("DPO", tiny_model_dir)
    before = weights_digest(module.policy)
    head = next(module.policy.parameters()).requires_grad_(False)
    rest = weights_digest(module.policy)
    head.add_(1)
    assert weights_digest(module.policy) == rest != before
    move(module.policy)
    assert weights_digest(module.policy) != rest


def test_another_reference_makes_other_rounds(tiny_model_dir, tmp_path):
    seed = write_demonstrations(tmp_path)
    how = {"rounds": 1, "max_new_tokens": 8, "keep_unfinished": True, "reference": "initial"}

    def made_of(seed_of_reference: int) -> str:
        reference = save_tiny_model(tmp_path / "reference", seed_of_reference)
        run_loop(tmp_path / "run", dpo(tiny_model_dir, reference=reference), seed, SPIN(**how))
        return RoundFolder.of(tmp_path / "run", 1).manifest["inputs"]

    first = made_of(1)
    assert made_of(1) == first
    assert made_of(2) != first


def test_of_large_files_a_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_align.loops.weights.LARGE", 6400)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(20_000))
    before = known_folder(tmp_path)
    # As training does: a little of everything.
    file.write_bytes(bytes(int(place % 50 == 0) for place in range(20_000)))
    after = known_folder(tmp_path)
    file.write_bytes(bytes(20_001))
    assert len({before, after, known_folder(tmp_path)}) == 3
