"""The Trainer from Python: what it adds to Lightning's, and that Lightning's works as well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry
from transformers import AutoModelForCausalLM, AutoTokenizer

import lit_align
from lit_align.callbacks import DriftAlarm, ExactResume, NonFiniteGuard, RunCheckpoint, RunRecord, Timing
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.evaluation.jsonl_logger import JsonlLogger
from lit_align.references import Reference
from lit_align.trainer import AlignTrainer, RunLoggers, run_name
from tests.helpers import save_tiny_model

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
ALWAYS = (ExactResume, NonFiniteGuard, DriftAlarm, RunCheckpoint, RunRecord, Timing)


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
    assert {RunCheckpoint, ModelCheckpoint} <= set(_kinds(AlignTrainer(callbacks=ModelCheckpoint(), **QUIET)))


@pytest.mark.parametrize("settings", [{"enable_checkpointing": False}, {"barebones": True}])
def test_no_checkpoints_where_they_are_not_wanted(settings):
    trainer = AlignTrainer(**({"accelerator": "cpu"} | settings))
    assert not trainer.checkpoint_callbacks


@pytest.mark.parametrize("settings", [{"logger": False}, {"barebones": True}])
def test_no_record_of_a_run_that_is_not_logged(settings):
    kinds = _kinds(AlignTrainer(**({"accelerator": "cpu"} | settings)))
    assert not {RunRecord, Timing} & {*kinds}


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
    code = re.search(r"```python\n(from lit_align import DPO.+?)```", readme, re.DOTALL)[1]
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


KINDS = {
    "pairs": (
        {"prompt": "say red ", "chosen": "red it is", "rejected": "no"},
        [{"role": "chosen"}, {"role": "rejected"}],
    ),
    "unpaired": ({"prompt": "say red ", "completion": "red", "label": True}, [{"label": True}]),
    "demonstrations": ({"prompt": "say red ", "completion": "red"}, [{}]),
    "ranked": (
        {"prompt": "say red ", "responses": ["no", "red it is", "red"], "scores": [0.5, 2, 1]},
        [{"given_score": 0.5}, {"given_score": 2.0}, {"given_score": 1.0}],
    ),
}


def _score(model, file: str, folder: str = "scores", **settings) -> list:
    data = lit_align.PreferenceDataModule(predict=file, batch_size=3, **settings)
    return AlignTrainer(logger=False, default_root_dir=folder, **QUIET).score(model, data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["DPO", "SFT", "KTO", "SimPO", "BradleyTerry"])
def test_any_method_scores_responses_of_any_kind(kind, method, pairs, tiny_model_dir):
    row, roles = KINDS[kind]
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    # A conversion of the run's own training data does not concern what is scored.
    records = _score(getattr(lit_align, method)(policy=tiny_model_dir), "rows.jsonl", convert="pairs_to_unpaired")
    assert [json.loads(line) for line in Path("scores/scores.jsonl").read_text().splitlines()] == records
    for number, (record, role) in enumerate(zip(records, roles, strict=True)):
        about = {"row": 1, "file": "rows.jsonl", "response": number, **role, "truncated": False}
        assert record.items() >= about.items()
        assert record["prompt"].endswith("say red ")
        assert record["completion"].endswith("</s>")
        kept = {"role", "label", "given_score"} - role.keys()
        assert not kept & record.keys()
    scores = {
        "DPO": {"logps", "mean_logps", "reference_logps", "reward"},
        "KTO": {"logps", "mean_logps", "reference_logps", "reward"},
        "SimPO": {"logps", "mean_logps", "reward"},
        "SFT": {"logps", "mean_logps"},
        "BradleyTerry": {"reward"},
    }[method]
    assert records[0].keys() & {"logps", "mean_logps", "reference_logps", "reward"} == scores


def test_scores_are_those_of_the_model(pairs, tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    records = _score(lit_align.SimPO(policy=tiny_model_dir, beta=3.0), pairs)
    assert len(records) == 8
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for record in records:
        prompt, ids = (
            tokenizer(text, add_special_tokens=False).input_ids
            for text in (record["prompt"], record["prompt"] + record["completion"])
        )
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected = logps.gather(-1, torch.tensor(ids[1:])[:, None])[len(prompt) - 1 :]
        assert record["tokens"] == len(expected)
        assert record["logps"] == pytest.approx(expected.sum().item(), abs=1e-3)
        assert record["mean_logps"] == pytest.approx(expected.mean().item(), abs=1e-3)
        assert record["reward"] == 3.0 * record["mean_logps"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 1}, [1, 4]),
        ({"max_epochs": 5, "log_every_n_steps": 8}, [1, 8, 16, 20]),
        ({"max_steps": 3}, [1, 3]),
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, [1, 6]),
        ({"max_epochs": 1, "log_every_n_steps": 0}, []),
        ({"max_epochs": 1, "limit_train_batches": 1}, [1]),
    ],
)
def test_the_first_and_the_last_step_are_logged(settings, steps, pairs, tiny_model_dir, recwarn):
    data = lit_align.PreferenceDataModule(pairs, batch_size=1)
    AlignTrainer(**settings, **QUIET).fit(lit_align.SimPO(policy=tiny_model_dir), data)
    lines = Path("runs/simpo/metrics.jsonl").read_text().splitlines() if steps else []
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == steps
    assert all("loss" in row for row in rows)
    assert not any("logging interval" in str(warning.message) for warning in recwarn)


class Elsewhere(Reference):
    """The model in another folder."""

    def build(self, policy, spec):
        self.scorer = Scorer(build_policy(PolicySpec("other"))).eval()

    def token_logps(self, rows, *, whole=False):
        return self.scorer(rows)


def test_implicit_rewards_are_measured_from_the_reference(pairs, tiny_model_dir):
    other = save_tiny_model(Path("other"), seed=1)
    before, after = (_score(lit_align.SFT(policy=folder), pairs) for folder in (other, tiny_model_dir))
    records = _score(lit_align.DPO(policy=tiny_model_dir, reference=Elsewhere(), beta=0.5), pairs)
    for record, old, new in zip(records, before, after, strict=True):
        assert record["reference_logps"] == pytest.approx(old["logps"], abs=1e-4)
        assert record["reward"] == pytest.approx(0.5 * (new["logps"] - old["logps"]), abs=1e-4)


def test_rows_of_a_folder_say_their_file_and_what_was_cut(pairs, tiny_model_dir):
    for name in ("b", "a"):
        row = {"prompt": f"{name} ", "completion": name * (90 if name == "b" else 1)}
        Path(f"folder/{name}.jsonl").parent.mkdir(exist_ok=True)
        Path(f"folder/{name}.jsonl").write_text(json.dumps(row) + "\n")
    records = _score(lit_align.BradleyTerry(policy=tiny_model_dir), "folder", max_length=32)
    assert [(record["file"], record["truncated"]) for record in records] == [
        ("folder/a.jsonl", False),
        ("folder/b.jsonl", True),
    ]
    assert records[1]["completion"] == "b" * (32 - 2)


def test_a_head_that_nobody_has_trained_is_reported(pairs, tiny_model_dir, recwarn):
    def warned(model, **arguments) -> bool:
        recwarn.clear()
        data = lit_align.PreferenceDataModule(pairs, predict=pairs)
        AlignTrainer(max_steps=1, **QUIET).score(model, data, **arguments)
        return any("these rewards are random" in str(warning.message) for warning in recwarn)

    assert warned(lit_align.BradleyTerry(policy=tiny_model_dir))
    assert not warned(lit_align.DPO(policy=tiny_model_dir))
    AlignTrainer(max_steps=1, **QUIET).fit(
        lit_align.BradleyTerry(policy=tiny_model_dir), lit_align.PreferenceDataModule(pairs)
    )
    assert not warned(lit_align.BradleyTerry(policy=tiny_model_dir), ckpt_path="last")


def test_prompts_alone_cannot_be_scored(pairs, tiny_model_dir):
    Path("prompts.jsonl").write_text(json.dumps({"prompt": "say red "}) + "\n")
    with pytest.raises(ConfigError, match="nothing to score"):
        _score(lit_align.DPO(policy=tiny_model_dir), "prompts.jsonl")


def test_generation_does_not_depend_on_batches(pairs, tiny_model_dir):
    def complete(batch_size: int, seed: int) -> list:
        data = lit_align.PreferenceDataModule(predict=pairs, batch_size=batch_size)
        trainer = AlignTrainer(logger=False, **QUIET)
        return trainer.generate(
            lit_align.DPO(policy=tiny_model_dir), data, max_new_tokens=6, temperature=1.0, seed=seed
        )

    assert complete(1, seed=0) == complete(4, seed=0)
    assert complete(4, seed=0) != complete(4, seed=1)
