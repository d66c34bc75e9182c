"""The Trainer from Python: what it adds to Lightning's, and that Lightning's works as well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry

import lit_align
from lit_align.callbacks import DriftAlarm, ExactResume, NonFiniteGuard, RunCheckpoint
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.evaluation.jsonl_logger import JsonlLogger
from lit_align.trainer import AlignTrainer, RunLoggers, run_name

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
ALWAYS = (ExactResume, NonFiniteGuard, DriftAlarm, RunCheckpoint)


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A file with four pairs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"say {word} ", "chosen": f"{word} it is", "rejected": "no"} for word in ("red", "sky", "tin", "oak")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "pairs.jsonl"


def _kinds(trainer) -> list[type]:
    return [type(callback) for callback in trainer.callbacks]


def test_the_public_name_is_our_trainer():
    assert lit_align.Trainer is AlignTrainer
    assert issubclass(AlignTrainer, LightningTrainer)


def test_callbacks_that_are_always_there():
    kinds = _kinds(AlignTrainer(**QUIET))
    assert all(kinds.count(kind) == 1 for kind in ALWAYS)
    assert kinds.index(RunLoggers) < kinds.index(ExactResume)


def test_the_users_own_take_their_place():
    class Mine(DriftAlarm):
        """Another one."""

    class Other(Callback):
        """Of another kind."""

    mine = Mine()
    kinds = _kinds(AlignTrainer(callbacks=[Other(), mine, RunCheckpoint(every_n_steps=7)], **QUIET))
    assert DriftAlarm not in kinds
    assert kinds.count(RunCheckpoint) == kinds.count(Mine) == 1
    assert kinds.index(ExactResume) < kinds.index(Other), "random numbers are restored before anyone draws some"
    assert RunCheckpoint not in _kinds(AlignTrainer(callbacks=ModelCheckpoint(), **QUIET))


@pytest.mark.parametrize("settings", [{"enable_checkpointing": False}, {"barebones": True}])
def test_no_checkpoints_where_they_are_not_wanted(settings):
    trainer = AlignTrainer(**({"accelerator": "cpu"} | settings))
    assert not trainer.checkpoint_callbacks


def test_safe_defaults():
    trainer = AlignTrainer(**QUIET)
    assert trainer.validate_loop.inference_mode is False
    assert trainer._accelerator_connector.use_distributed_sampler is False
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [({}, 1), ({"max_epochs": 3}, 3), ({"max_steps": 5}, None), ({"max_time": "00:01:00:00"}, None)],
)
def test_one_epoch_unless_something_says_how_long(settings, epochs):
    assert AlignTrainer(**settings, **QUIET).max_epochs == epochs


def test_sharded_strategies_keep_their_own_checkpoints():
    trainer = AlignTrainer(strategy="fsdp2", devices=2, **QUIET)
    assert isinstance(trainer.strategy, FSDP2Strategy)
    assert "fsdp2" in StrategyRegistry


def test_run_folders_are_named_after_the_method():
    class MyDPO(lit_align.DPO):
        """A user's."""

    assert run_name(lit_align.ConservativeDPO) == "cdpo"
    assert run_name(MyDPO) == "mydpo"
    assert AlignTrainer(default_root_dir="here", **QUIET).default_root_dir == "here"
    trainer = AlignTrainer(**QUIET)
    trainer.strategy.connect(lit_align.DPO(policy="x"))
    assert trainer.default_root_dir == str(Path("runs") / "dpo")


def _loggers(stage: str, tmp_path: Path, **settings) -> list[type]:
    trainer = AlignTrainer(default_root_dir=str(tmp_path), **settings, **QUIET)
    for callback in trainer.callbacks:
        if isinstance(callback, RunLoggers):
            callback.setup(trainer, lit_align.DPO(policy="x"), stage)
            callback.setup(trainer, lit_align.DPO(policy="x"), stage)
    return [type(logger) for logger in trainer.loggers]


def test_loggers(tmp_path):
    csv = CSVLogger(tmp_path)
    assert _loggers("fit", tmp_path) == [JsonlLogger, TensorBoardLogger]
    assert _loggers("fit", tmp_path, logger=True) == [JsonlLogger, TensorBoardLogger]
    assert _loggers("fit", tmp_path, logger=False) == []
    assert _loggers("fit", tmp_path, logger=csv) == [JsonlLogger, CSVLogger]
    assert _loggers("fit", tmp_path, logger=[JsonlLogger(str(tmp_path))]) == [JsonlLogger]
    assert _loggers("validate", tmp_path) == []
    assert _loggers("validate", tmp_path, logger=[csv]) == [CSVLogger]


def test_the_readmes_example(pairs, tiny_model_dir):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.+?)```", readme, re.DOTALL)[1]
    for name, here in {
        "Qwen/Qwen2.5-0.5B-Instruct": tiny_model_dir,
        "trl-lib/ultrafeedback_binarized@test": pairs,
        "trl-lib/ultrafeedback_binarized": pairs,
        "max_epochs=1": "max_epochs=1, accelerator='cpu', enable_progress_bar=False",
    }.items():
        assert name in code
        code = code.replace(name, here)
    scope: dict = {}
    exec(code, scope)
    assert scope["trainer"].global_step == 1
    lines = [json.loads(line) for line in Path("runs/dpo/metrics.jsonl").read_text().splitlines()]
    assert "val/rewards/accuracies" in lines[-1]
    assert list(Path("runs/dpo/checkpoints").glob("*.ckpt"))


def test_lightnings_trainer_works_too(pairs, tiny_model_dir, tmp_path):
    model = lit_align.SFT(policy=tiny_model_dir)
    data = lit_align.PreferenceDataModule(pairs, convert="pairs_to_chosen", batch_size=2)
    trainer = LightningTrainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    assert trainer.global_step == 2


def test_scores_are_those_of_the_model(pairs, tiny_model_dir):
    data = lit_align.PreferenceDataModule(predict=pairs, batch_size=3)
    model = lit_align.BradleyTerry(policy=tiny_model_dir)
    records = AlignTrainer(logger=False, **QUIET).score(model, data)
    assert [record["row"] for record in records] == [1, 2, 3, 4]
    assert set(records[0]) == {"row", "chosen_score", "rejected_score"}
    assert len({record["chosen_score"] for record in records}) == 4
    assert len(Path("runs/bradley_terry/scores.jsonl").read_text().splitlines()) == 4


def test_generation_does_not_depend_on_batches(pairs, tiny_model_dir):
    def complete(batch_size: int, seed: int) -> list:
        data = lit_align.PreferenceDataModule(predict=pairs, batch_size=batch_size)
        trainer = AlignTrainer(logger=False, **QUIET)
        return trainer.generate(
            lit_align.DPO(policy=tiny_model_dir), data, max_new_tokens=6, temperature=1.0, seed=seed
        )

    assert complete(1, seed=0) == complete(4, seed=0)
    assert complete(4, seed=0) != complete(4, seed=1)
