"""`validate` with every kind of reference: the same numbers where the references are the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

import lit_align
from lit_align import PreferenceDataModule
from lit_align.callbacks import LoRA
from lit_align.references import Precomputed
from tests.helpers import save_tiny_model
from tests.methods.scoring import move

CONVERT = {"KTO": "pairs_to_unpaired"}


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> str:
    """Seven pairs: the last batch is smaller."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"Count {i}: ", "chosen": "one two " * (i + 1), "rejected": f"none {i}"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Moved(Callback):
    """A policy that has been trained: after references were made, its weights change."""

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        move(pl_module.policy)


def validate(method: str, model: str, reference: Any, file: str, folder: Path, *, lora: bool) -> dict[str, float]:
    """Metrics of a moved policy on held-out rows."""
    module = getattr(lit_align, method)(policy=model, reference=reference)
    trainer = Trainer(
        accelerator="cpu", callbacks=[Moved(), *([LoRA(r=4, dropout=0.5)] if lora else [])], logger=False,
        default_root_dir=str(folder), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    data = PreferenceDataModule(
        validation=file, batch_size=3, convert=CONVERT.get(method), cache_dir=str(folder / "cache")
    )
    (metrics,) = trainer.validate(module, data, verbose=False)
    return metrics


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("method", ["DPO", "IPO", "KTO"])
def test_references_of_the_same_weights_give_the_same_metrics(method, lora, tiny_model_dir, pairs_file, tmp_path):
    expected = validate(method, tiny_model_dir, "frozen_copy", pairs_file, tmp_path, lora=lora)
    assert abs(expected["val/rewards/margins"]) > 1e-3
    others: list[Any] = ["auto", "adapters_off", "named_adapter"] if lora else ["auto"]
    if method != "KTO":
        others.append(Precomputed(str(tmp_path / "logps")))
    for reference in others:
        metrics = validate(method, tiny_model_dir, reference, pairs_file, tmp_path, lora=lora)
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-5), reference


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_without_a_reference_rewards_are_those_of_the_policy(lora, tiny_model_dir, pairs_file, tmp_path):
    metrics = validate("DPO", tiny_model_dir, "none", pairs_file, tmp_path, lora=lora)
    for side in ("chosen", "rejected"):
        assert metrics[f"val/rewards/{side}"] == pytest.approx(0.1 * metrics[f"val/logps/{side}"])
    other = validate("DPO", tiny_model_dir, "frozen_copy", pairs_file, tmp_path, lora=lora)
    assert metrics["val/logps/chosen"] == pytest.approx(other["val/logps/chosen"])
    assert metrics["val/loss"] != pytest.approx(other["val/loss"], rel=1e-2)


def test_two_models_share_a_cache_and_no_values(pairs_file, tmp_path):
    """Also with data that differ: whatever values depend on is in the names of the files."""
    longer = tmp_path / "longer.jsonl"
    longer.write_text(Path(pairs_file).read_text().replace("one two", "one two three"))
    cache = str(tmp_path / "logps")
    for seed in (0, 1):
        model = save_tiny_model(tmp_path / f"model {seed}", seed)
        for file in (pairs_file, str(longer)):
            expected = validate("DPO", model, "frozen_copy", file, tmp_path, lora=False)
            metrics = validate("DPO", model, Precomputed(cache), file, tmp_path, lora=False)
            assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert len(list(Path(cache).glob("*.safetensors"))) == 4
