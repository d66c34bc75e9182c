"""What every method's row is put through with a model behind it: real files, a tiny Llama, Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

import lit_align
from lit_align import PreferenceDataModule
from lit_align.callbacks import ExactResume, LoRA, ReferenceSync, RunCheckpoint
from lit_align.core.batch import DataKind
from lit_align.core.capabilities import Capability
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import reduce_terms
from tests.cases import CASES, Case
from tests.rows import CONVERT, write_files

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[DataKind, str]:
    """Sixteen rows of each kind, of unequal lengths."""
    return write_files(tmp_path_factory.mktemp("data"), 16)


def build(case: Case, model: str, **kwargs: Any) -> AlignmentModule:
    """The method on the tiny model."""
    usual = {"learning_rate": 1e-3, "warmup_ratio": 0.0}
    return getattr(lit_align, case.name)(policy=model, **(usual | case.training | kwargs))


def data(case: Case, files: dict[DataKind, str], folder: Path, **kwargs: Any) -> PreferenceDataModule:
    """The rows, as the method wants them, in the order of the file."""
    kind = getattr(lit_align, case.name).data_kind
    settings = {"batch_size": 4, "shuffle": False, "bucket": False, "max_length": 128}
    file = files.get(kind, files[DataKind.PAIRS])
    held_out = {"validation": file} if kwargs.pop("validates", False) else {}
    return PreferenceDataModule(
        file, convert=CONVERT.get(kind), cache_dir=str(folder / "cache"), **(settings | held_out | kwargs)
    )


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    """A quiet Trainer on one CPU."""
    quiet: dict[str, Any] = {
        "enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False,
    }  # fmt: skip
    return Trainer(
        accelerator="cpu", devices=1, default_root_dir=str(folder), use_distributed_sampler=False,
        inference_mode=False, **(quiet | kwargs)
    )  # fmt: skip


class Record(Callback):
    """Keeps the logged loss of every optimiser step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: AlignmentModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: AlignmentModule, *_: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.losses.append(pl_module.last_step.metrics["loss"])


def fit(case: Case, model: str, files: dict[DataKind, str], folder: Path, data_args: dict | None = None, **kwargs: Any):
    """Train, and return the module and the logged losses."""
    seed_everything(0, verbose=False)
    module_args = kwargs.pop("module", {})
    module, record = build(case, model, **module_args), Record()
    callbacks = [record, *kwargs.pop("callbacks", [])]
    if Capability.REFERENCE_REFRESH in module.requires:
        callbacks.append(ReferenceSync(alpha=0.5, every_n_steps=2))
    if Capability.ADAPTERS in module.requires:
        callbacks.append(LoRA(r=4))
    ckpt_path = kwargs.pop("ckpt_path", None)
    run = trainer(folder, callbacks=callbacks, **kwargs)
    run.fit(module, data(case, files, folder, **(data_args or {})), ckpt_path=ckpt_path)
    return module, record.losses


def weights(module: AlignmentModule) -> torch.Tensor:
    """All trained weights, flat."""
    return torch.cat([p.detach().flatten() for p in module.policy.parameters() if p.requires_grad])


@by_slug
def test_training_lowers_the_loss(case: Case, tiny_model_dir, files, tmp_path):
    if not case.learns:
        pytest.skip("what the loss is measured against moves with the policy")
    _, losses = fit(case, tiny_model_dir, files, tmp_path, {"batch_size": 16}, max_steps=4)
    assert losses[-1] < losses[0]


@by_slug
def test_layouts_agree(case: Case, tiny_model_dir, files, tmp_path):
    results = {}
    for layout in ("padded", "packed", "shared"):
        module, losses = fit(
            case, tiny_model_dir, files, tmp_path, max_steps=2, module={"layout": layout, "dtype": "float64"}
        )
        results[layout] = (torch.tensor(losses), weights(module))
    for layout in ("packed", "shared"):
        # float64 weights; Llama's norm computes in float32, which bounds the agreement, and Adam divides by sqrt(g^2).
        torch.testing.assert_close(results[layout][0], results["padded"][0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(results[layout][1], results["padded"][1], rtol=0, atol=2e-4)


@by_slug
def test_accumulated_micro_batches_equal_one_batch(case: Case, tiny_model_dir, files, tmp_path):
    if not case.accumulates:
        pytest.skip("the loss is that of a micro-batch; its row says why")
    sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05), "schedule": "constant"}
    whole, one = fit(case, tiny_model_dir, files, tmp_path, {"batch_size": 8}, max_steps=2, module=sgd)
    parts, two = fit(
        case,
        tiny_model_dir,
        files,
        tmp_path,
        {"batch_size": 2},
        max_steps=2,
        accumulate_grad_batches=4,
        module=sgd,
    )
    assert two == pytest.approx(one, rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-6)


@by_slug
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_run_equals_uninterrupted(case: Case, accumulate, tiny_model_dir, files, tmp_path):
    settings = {"accumulate_grad_batches": accumulate, "enable_checkpointing": True, "max_epochs": 2}
    shuffled = {"batch_size": 2, "shuffle": True, "bucket": True}
    dropout = {"dropout": True}

    def callbacks(folder: str) -> list[Callback]:
        return [ExactResume(), RunCheckpoint(every_n_steps=3, keep=-1, dirpath=str(tmp_path / folder))]

    whole, losses = fit(
        case, tiny_model_dir, files, tmp_path, shuffled, module=dropout, callbacks=callbacks("whole"), **settings
    )
    again, tail = fit(
        case, tiny_model_dir, files, tmp_path, shuffled, module=dropout, callbacks=callbacks("again"),
        ckpt_path=str(tmp_path / "whole" / "step=3.ckpt"), **settings
    )  # fmt: skip
    assert tail == losses[3:]
    assert torch.equal(weights(again), weights(whole))
    assert again.num_tokens == whole.num_tokens


OF_A_BATCH = ("val/loss", "val/kl", "val/contrast", "val/ns_dpo", "val/beta_dpo", "val/correlation")
"""Beginnings of metrics that belong to a batch where a method's loss does."""


@by_slug
def test_validation_counts_every_row_once(case: Case, tiny_model_dir, files, tmp_path):
    values = []
    for batch_size in (3, 16):
        module = build(case, tiny_model_dir)
        held_out = data(case, files, tmp_path, validates=True, batch_size=batch_size)
        (metrics,) = trainer(tmp_path).validate(module, held_out, verbose=False)
        values.append(metrics)
    assert set(values[0]) == set(values[1])
    for name in values[0]:
        if not name.startswith(OF_A_BATCH) or case.accumulates:
            assert values[0][name] == pytest.approx(values[1][name], rel=1e-5, abs=1e-6), name


def test_loss_without_a_window_divides_by_its_own_counts(tiny_model_dir, files, tmp_path):
    case = CASES[0]
    module = build(case, tiny_model_dir)
    held_out = data(case, files, tmp_path, validates=True)
    run = trainer(tmp_path)
    run.validate(module, held_out, verbose=False)
    batch = next(iter(held_out.val_dataloader()))
    assert batch.window is None
    terms = module.terms(batch)
    assert reduce_terms(terms, batch.counts()).item() == pytest.approx(terms["loss"].values.mean().item())
