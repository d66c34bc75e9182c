"""Reference log-probabilities from a cache: those that an online reference gives, in every precision and stage."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from safetensors.torch import load_file, save_file

from lit_align import DPO, KTO, BradleyTerry, PreferenceDataModule
from lit_align.callbacks import QLoRA, ReferenceSync
from lit_align.core.errors import ConfigError
from lit_align.core.module import AlignmentModule
from lit_align.references import Precomputed
from lit_align.trainer import AlignTrainer
from tests.launch import launch

LOG_2 = math.log(2)
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]


class Watch(Callback):
    """Keeps the loss of each micro-batch and what came with it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[Any] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.losses.append(float(module.last_step.loss))
        self.batches.append(batch)

    def on_predict_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.batches.append(batch)


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> str:
    """Six pairs with margins that bfloat16 cannot hold."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": f"Count {i}: ", "chosen": "one two " * (i + 1), "rejected": f"none {i}", "margin": i + 0.123456789}
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_trainer(folder: Path, callbacks: Any = (), kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    """A quiet trainer of three optimiser steps."""
    seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return kind(
        accelerator="cpu", max_steps=3, callbacks=list(callbacks), default_root_dir=str(folder),
        enable_progress_bar=False, use_distributed_sampler=False, **(quiet | options),
    )  # fmt: skip


def make_data(folder: Path, **options: Any) -> PreferenceDataModule:
    """Data with a cache of their own."""
    return PreferenceDataModule(**({"batch_size": 2, "cache_dir": str(folder / "cache")} | options))


def fit(module: AlignmentModule, file: str, folder: Path, callbacks: Any = (), **options: Any) -> AlignmentModule:
    """Three optimiser steps."""
    convert = options.pop("convert", None)
    make_trainer(folder, callbacks, **options).fit(module, make_data(folder, train=file, convert=convert))
    return module


def weights(module: AlignmentModule) -> torch.Tensor:
    """The trained weights, flat."""
    return torch.cat([p.detach().flatten() for p in module.policy.parameters() if p.requires_grad])


def dpo(model: str, cache: Path | None = None, **options: Any) -> DPO:
    """DPO with steps that show, and with a cached reference if there is a folder for it."""
    reference = "auto" if cache is None else Precomputed(str(cache))
    return DPO(policy=model, reference=reference, **({"learning_rate": 1e-2, "warmup_ratio": 0.0} | options))


def test_training_is_that_of_the_frozen_copy(tiny_model_dir, pairs_file, tmp_path):
    online = fit(dpo(tiny_model_dir), pairs_file, tmp_path)
    cached = fit(dpo(tiny_model_dir, tmp_path / "logps"), pairs_file, tmp_path)
    torch.testing.assert_close(weights(cached), weights(online), rtol=0, atol=1e-5)
    assert cached.last_step.metrics["rewards/margins"] == pytest.approx(
        online.last_step.metrics["rewards/margins"], abs=1e-4
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_starts_at_log_2_in_every_precision(precision, tiny_model_dir, pairs_file, tmp_path):
    online, scored, from_the_cache = None, tmp_path / "logps", tmp_path / "logps"
    for cache in (online, scored, from_the_cache):
        watch = Watch()
        fit(dpo(tiny_model_dir, cache, learning_rate=0.0), pairs_file, tmp_path, [watch], precision=precision)
        assert watch.losses == pytest.approx([LOG_2] * 3, abs=1e-6 if precision == "32-true" else 1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_loss_starts_at_log_2_in_every_dtype(dtype, tiny_model_dir, pairs_file, tmp_path):
    watch = Watch()
    fit(dpo(tiny_model_dir, tmp_path / "logps", learning_rate=0.0, dtype=dtype), pairs_file, tmp_path, [watch])
    assert watch.losses == pytest.approx([LOG_2] * 3, abs=1e-3 if dtype == "bfloat16" else 1e-12)


def test_every_precision_has_a_cache_of_its_own(tiny_model_dir, pairs_file, tmp_path):
    for precision in PRECISIONS:
        fit(dpo(tiny_model_dir, tmp_path / "logps"), pairs_file, tmp_path, precision=precision)
    values = [load_file(path)["logps"] for path in (tmp_path / "logps").iterdir()]
    assert len(values) == 3
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tables_of_a_batch_keep_their_precision(precision, tiny_model_dir, pairs_file, tmp_path):
    watch = Watch()
    fit(dpo(tiny_model_dir, tmp_path / "logps"), pairs_file, tmp_path, [watch], precision=precision)
    (path,) = (tmp_path / "logps").iterdir()
    kept = set(load_file(path)["logps"].tolist())
    for batch in watch.batches:
        assert batch.margin.tolist() == [row - 1 + 0.123456789 for row in batch.source_rows.tolist()]
        assert batch.reference_logps.dtype is torch.float64
        assert set(batch.reference_logps.tolist()) <= kept


def test_a_module_leaves_the_trainer_as_it_was(tiny_model_dir, pairs_file, tmp_path):
    trainer = make_trainer(tmp_path, precision="bf16-true")
    trainer.fit(BradleyTerry(policy=tiny_model_dir), make_data(tmp_path, train=pairs_file))
    assert trainer.precision_plugin.convert_input(torch.ones(1)).dtype is torch.bfloat16


def test_adapters_on_4_bit_weights(tiny_model_dir, pairs_file, tmp_path):
    watch, online = Watch(), Watch()
    options = {"learning_rate": 0.0}
    fit(dpo(tiny_model_dir, tmp_path / "logps", **options), pairs_file, tmp_path, [QLoRA(r=2), watch])
    fit(dpo(tiny_model_dir, **options), pairs_file, tmp_path, [QLoRA(r=2), online])
    assert watch.losses == pytest.approx(online.losses, abs=1e-5)
    assert watch.losses == pytest.approx([LOG_2] * 3, abs=1e-5)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_fills_too(stage, tiny_model_dir, pairs_file, tmp_path):
    name = {"validate": "validation", "test": "test"}[stage]
    trainer = make_trainer(tmp_path)
    data = make_data(tmp_path, **{name: pairs_file}, num_workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (metrics,) = getattr(trainer, stage)(dpo(tiny_model_dir, tmp_path / "logps"), data, verbose=False)
    assert next(value for key, value in metrics.items() if key.endswith("/loss")) == pytest.approx(LOG_2, abs=1e-6)


def test_evaluation_after_training_fills_its_own_split(tiny_model_dir, pairs_file, tmp_path):
    module, data = dpo(tiny_model_dir, tmp_path / "logps"), make_data(tmp_path, train=pairs_file, test=pairs_file)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, data)
    (metrics,) = trainer.test(module, data, verbose=False)
    assert metrics["test/loss"] < LOG_2


def test_scoring_fills_and_generation_has_nothing_to_fill(tiny_model_dir, pairs_file, tmp_path):
    watch = Watch()
    trainer = make_trainer(tmp_path, [watch], AlignTrainer)
    records = trainer.score(dpo(tiny_model_dir, tmp_path / "logps"), make_data(tmp_path, predict=pairs_file))
    assert len(records) == 12
    cached = [value for batch in watch.batches for value in batch.reference_logps.tolist()]
    assert sorted(cached) == sorted(record["reference_logps"] for record in records)
    for record in records:
        assert record["reference_logps"] == pytest.approx(record["logps"], abs=1e-4)
    trainer.generate(dpo(tiny_model_dir, tmp_path / "none"), make_data(tmp_path, predict=pairs_file), max_new_tokens=2)
    assert not (tmp_path / "none").exists()


def test_cache_is_used_again_and_checked(tiny_model_dir, pairs_file, tmp_path):
    folder = tmp_path / "logps"
    first = fit(dpo(tiny_model_dir, folder), pairs_file, tmp_path)
    (path,) = folder.iterdir()
    written = path.stat().st_mtime_ns
    again = fit(dpo(tiny_model_dir, folder), pairs_file, tmp_path)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(weights(again), weights(first))
    for damage in (1.0, torch.nan):
        save_file({"logps": load_file(path)["logps"] + damage}, path)
        with pytest.raises(ConfigError, match=r"(?s)not those of this model.*delete the file"):
            fit(dpo(tiny_model_dir, folder), pairs_file, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a table"])
def test_broken_cache_is_made_anew(damage, tiny_model_dir, pairs_file, tmp_path):
    folder = tmp_path / "logps"
    fit(dpo(tiny_model_dir, folder), pairs_file, tmp_path)
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(damage)
    fit(dpo(tiny_model_dir, folder), pairs_file, tmp_path)
    assert path.read_bytes() == good


def test_cache_that_cannot_be_written_costs_a_warning(tiny_model_dir, pairs_file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept"):
        fit(dpo(tiny_model_dir, tmp_path / "file"), pairs_file, tmp_path)


def _train_as_rank(model: str, file: str, folder: Path, strategy: str) -> torch.Tensor:
    """Trains with a cache folder of this rank's own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    world, rank = int(os.environ["WORLD_SIZE"]), os.environ["RANK"]
    module = dpo(model, folder / f"rank{rank}", schedule="constant", optimizer=_sgd)
    trainer = make_trainer(folder, devices=world, strategy=strategy)
    trainer.fit(module, make_data(folder, train=file, batch_size=4 // world, bucket=False, shuffle=False))
    local = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.policy.parameters()]
    return torch.cat([p.detach().flatten() for p in local])


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("owner", [0, 1])
def test_ranks_agree_where_only_one_has_the_cache(owner, strategy, tiny_model_dir, pairs_file, tmp_path):
    (expected,) = launch(_train_as_rank, tiny_model_dir, pairs_file, tmp_path, "auto", world=1)
    (path,) = (tmp_path / "rank0").iterdir()
    if owner == 1:
        (tmp_path / "rank0").rename(tmp_path / "rank1")
    kept = tmp_path / f"rank{owner}" / path.name
    written = kept.stat().st_mtime_ns
    for found in launch(_train_as_rank, tiny_model_dir, pairs_file, tmp_path, strategy):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert kept.stat().st_mtime_ns == written
    # Rank 0 alone reads and writes.
    assert path.exists()
    assert (tmp_path / "rank1").exists() == (owner == 1)


def test_ranks_all_refuse_a_cache_of_another_model(tiny_model_dir, pairs_file, tmp_path):
    launch(_train_as_rank, tiny_model_dir, pairs_file, tmp_path, "auto", world=1)
    (path,) = (tmp_path / "rank0").iterdir()
    save_file({"logps": load_file(path)["logps"] + 1.0}, path)
    with pytest.raises(AssertionError) as caught:
        launch(_train_as_rank, tiny_model_dir, pairs_file, tmp_path, "ddp")
    assert str(caught.value).count("ConfigError: cached reference log-probabilities are not those") == 2


@pytest.mark.parametrize("reference", ["precomputed", "an object"])
def test_changing_completions_of_kto_are_refused_before_anything_is_read(
    reference, tiny_model_dir, pairs_file, tmp_path
):
    given = reference if reference == "precomputed" else Precomputed(str(tmp_path / "logps"))
    module = KTO(policy=tiny_model_dir, reference=given)
    with pytest.raises(ConfigError, match="mismatched completions"):
        fit(module, pairs_file, tmp_path, convert="pairs_to_unpaired")
    assert not hasattr(module, "policy")
    assert not (tmp_path / "logps").exists()
    assert not (tmp_path / "cache").exists()


def test_kto_scores_with_a_precomputed_reference(tiny_model_dir, pairs_file, tmp_path):
    module = KTO(policy=tiny_model_dir, reference=Precomputed(str(tmp_path / "logps")))
    trainer = make_trainer(tmp_path, kind=AlignTrainer)
    assert len(trainer.score(module, make_data(tmp_path, predict=pairs_file))) == 12


def test_a_stream_is_refused_before_held_out_rows_are_scored(tiny_model_dir, pairs_file, tmp_path):
    data = make_data(tmp_path, train=pairs_file, validation=pairs_file, streaming=True)
    with pytest.raises(ConfigError, match="streamed data cannot be scored"):
        make_trainer(tmp_path).fit(dpo(tiny_model_dir, tmp_path / "logps"), data)
    assert not (tmp_path / "logps").exists()


def test_a_stream_may_bring_its_own_values(tiny_model_dir, pairs_file, tmp_path):
    rows = [json.loads(line) for line in Path(pairs_file).read_text().splitlines()]
    known = [row | {"ref_chosen_logps": -9.0, "ref_rejected_logps": -8.0} for row in rows]
    module = dpo(tiny_model_dir, tmp_path / "logps")
    make_trainer(tmp_path).fit(module, make_data(tmp_path, train=known, streaming=True))
    assert module.trainer.global_step == 3


def test_refreshing_is_refused(tiny_model_dir, pairs_file, tmp_path):
    with pytest.raises(ConfigError, match="needs a reference that can change"):
        fit(dpo(tiny_model_dir, tmp_path / "logps"), pairs_file, tmp_path, [ReferenceSync(every_n_steps=1)])
