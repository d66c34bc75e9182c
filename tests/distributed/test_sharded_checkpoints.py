"""Checkpoints of sharded runs: exact, whole or absent, readable without the processes that wrote them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM

import lit_align.core.fsdp2
from lit_align.callbacks import ExactResume, LoRA, ReferenceSync, RunCheckpoint
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.errors import ConfigError
from lit_align.core.sharded_checkpoint import read_sharded, saved_names
from lit_align.tools.export import export
from tests.distributed.jobs import Data, Job, Result, prepare, run
from tests.distributed.test_two_processes import assert_equal_runs
from tests.launch import RankError, launch

SAVE = (ExactResume, partial(RunCheckpoint, every_n_steps=1, keep=-1))
REFRESH = partial(ReferenceSync, alpha=0.5, every_n_steps=1)
ADAPTERS = partial(LoRA, r=4, dropout=0.1)


def job_in(root: Path, model: str, strategy: str = "fsdp2", **changes) -> Job:
    """DPO in the folder `root` with a checkpoint after each of its 4 steps; steps 1 and 3 lie inside an epoch."""
    settings = {"rows": 2, "accumulate": 2, "sgd": None, "shuffle": True, "examples": 16, "callbacks": SAVE} | changes
    trainer = (("default_root_dir", str(root)), ("enable_checkpointing", True))
    return Job("dpo", model, strategy, trainer=trainer, **settings)


def checkpoint(root: Path, step: int) -> Path:
    return root / "checkpoints" / f"step={step}.ckpt"


def assert_continued(rest: Result, whole: Result, step: int) -> None:
    """The rest of a run equals that of the uninterrupted run, bit for bit."""
    assert rest.steps == whole.steps[step:]
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in rest.weights.items())


@pytest.fixture(scope="module")
def written(tiny_model_dir, tmp_path_factory) -> tuple[Path, Result]:
    """A sharded run with its checkpoints."""
    root = tmp_path_factory.mktemp("written")
    result, _ = launch(run, job_in(root, tiny_model_dir))
    return root, result


# -------------------------------------------------------------------- exact resume


@pytest.mark.parametrize(
    ("strategy", "sharded", "callbacks", "step"),
    [
        ("fsdp2", True, (REFRESH,), 1),
        ("fsdp2", True, (ADAPTERS,), 3),
        ("fsdp2", True, (ADAPTERS, REFRESH), 1),
        ("fsdp2", False, (REFRESH,), 3),
        ("fsdp2", False, (ADAPTERS, REFRESH), 1),
        ("ddp", False, (ADAPTERS, REFRESH), 3),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(strategy, sharded, callbacks, step, tiny_model_dir, tmp_path):
    options = (("save_distributed_checkpoint", sharded),) if strategy == "fsdp2" else ()
    job = job_in(
        tmp_path, tiny_model_dir, strategy, callbacks=SAVE + callbacks, strategy_options=options,
        module=(("dropout", True),),
    )  # fmt: skip
    whole, _ = launch(run, job)
    assert checkpoint(tmp_path, step).is_dir() == sharded
    rest, _ = launch(run, replace(job, resume=str(checkpoint(tmp_path, step))))
    assert_continued(rest, whole, step)


def test_plain_run_goes_on_in_the_middle_of_an_epoch(written, tiny_model_dir, tmp_path):
    root, whole = written
    rest, _ = launch(run, job_in(tmp_path, tiny_model_dir, resume=str(checkpoint(root, 3))))
    assert_continued(rest, whole, 3)


def _run_until_killed_while_writing(job: Job) -> Result:
    """Rank 0 dies at the second checkpoint, when all parts of it are written but it has not got its name."""
    publish, calls = lit_align.core.fsdp2.publish, []

    def die(partial_path: Path, final: Path) -> None:
        calls.append(final)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(partial_path, final)

    lit_align.core.fsdp2.publish = die
    return run(job)


def test_a_half_written_checkpoint_is_never_picked_up(written, tiny_model_dir, tmp_path):
    job = job_in(tmp_path, tiny_model_dir)
    with pytest.raises(RankError, match="died"):
        launch(_run_until_killed_while_writing, job)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step=1.ckpt", "step=2.ckpt.tmp"]
    rest, _ = launch(run, replace(job, resume="last"))
    assert_continued(rest, written[1], 1)
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


# -------------------------------------------------------------------- from one number of processes to another


def test_one_process_goes_on_from_shards(written, tiny_model_dir, tmp_path):
    """At the end of an epoch, since inside one the batches depend on the number of processes."""
    root, whole = written
    job = job_in(tmp_path, tiny_model_dir, "auto", callbacks=(), resume=str(checkpoint(root, 2)))
    (rest,) = launch(run, replace(job, rows=4, trainer=(("plugins", [AtomicCheckpointIO()]),)), world=1)
    assert_equal_runs(rest, replace(whole, steps=whole.steps[2:]))


def test_shards_go_on_from_one_process(written, tiny_model_dir, tmp_path):
    job = job_in(tmp_path, tiny_model_dir, "auto", rows=4, callbacks=SAVE[1:])
    launch(run, job, world=1)
    resumed = job_in(tmp_path, tiny_model_dir, callbacks=(), resume=str(checkpoint(tmp_path, 2)))
    rest, _ = launch(run, resumed)
    assert_equal_runs(rest, replace(written[1], steps=written[1].steps[2:]))


def test_four_processes_go_on_from_the_shards_of_two(written, tiny_model_dir, tmp_path):
    root, whole = written
    job = job_in(tmp_path, tiny_model_dir, rows=1, callbacks=(), resume=str(checkpoint(root, 2)))
    rest, *_ = launch(run, job, world=4)
    assert_equal_runs(rest, replace(whole, steps=whole.steps[2:]))


# -------------------------------------------------------------------- what is in them


def test_only_what_training_changes_is_saved(written, tiny_model_dir, tmp_path):
    root, whole = written
    policy = {name for name in whole.weights if name.startswith("policy.")}
    assert saved_names(checkpoint(root, 1)) == policy
    launch(run, job_in(tmp_path, tiny_model_dir, callbacks=(*SAVE, ADAPTERS)))
    names = saved_names(checkpoint(tmp_path, 1))
    assert names
    assert all("lora_" in name for name in names)


def test_shards_read_by_one_process_are_the_weights(written, tmp_path):
    root, whole = written
    folder = checkpoint(root, 4)
    weights = read_sharded(folder, weights_only=True)
    assert "optimizer_states" not in weights
    assert all(torch.equal(value, whole.weights[name]) for name, value in weights["state_dict"].items())
    # Torch's own tool agrees.
    dcp_to_torch_save(folder, tmp_path / "whole.pt")
    by_torch = torch.load(tmp_path / "whole.pt", weights_only=True)["state_dict"]
    assert by_torch.keys() == weights["state_dict"].keys()
    assert all(torch.equal(value, by_torch[name]) for name, value in weights["state_dict"].items())


def test_export_of_shards(written, tmp_path):
    root, whole = written
    export(ckpt=str(checkpoint(root, 4)), out=str(tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for name, value in model.named_parameters():
        assert torch.equal(value, whole.weights[f"policy.model.{name}"]), name


def _validate(job: Job) -> list[dict[str, float]]:
    module, trainer, _ = prepare(job)
    return trainer.validate(module, Data(job), ckpt_path=job.resume, verbose=False)


def test_shards_are_validated_by_any_number_of_processes(written, tiny_model_dir, tmp_path):
    job = job_in(tmp_path, tiny_model_dir, callbacks=(), resume=str(checkpoint(written[0], 4)), validate=True)
    (sharded,), _ = launch(_validate, job)
    one = replace(job, strategy="auto", rows=4, trainer=(("plugins", [AtomicCheckpointIO()]),))
    ((alone,),) = launch(_validate, one, world=1)
    assert sharded == pytest.approx(alone, rel=1e-5)


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("missing", ["meta.pt", ".metadata"])
def test_an_incomplete_folder_is_refused(missing, written, tiny_model_dir, tmp_path):
    broken = tmp_path / "broken.ckpt"
    shutil.copytree(checkpoint(written[0], 1), broken)
    (broken / missing).unlink()
    with pytest.raises(ConfigError, match="written to its end"):
        read_sharded(broken)
    with pytest.raises(RankError, match="no complete checkpoint"):
        launch(run, job_in(tmp_path, tiny_model_dir, resume=str(broken)))


def test_shards_of_another_model_are_refused(written, tiny_model_dir, tmp_path):
    job = job_in(tmp_path, tiny_model_dir, callbacks=(*SAVE, ADAPTERS), resume=str(checkpoint(written[0], 1)))
    with pytest.raises(RankError, match=r"(?s)does not fit this model.*missing"):
        launch(run, job)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_the_description_of_the_shards_is_not_run(written, tmp_path):
    folder, trace = tmp_path / "bad.ckpt", tmp_path / "exploded"
    shutil.copytree(checkpoint(written[0], 1), folder)
    (folder / ".metadata").write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(ConfigError, match="run code"):
        read_sharded(folder)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_code_among_the_shards_is_not_run(written, tmp_path):
    """An entry that is not a tensor, such as a setting of the optimiser, is a pickle of its own."""
    folder, trace = tmp_path / "bad.ckpt", tmp_path / "exploded"
    shutil.copytree(checkpoint(written[0], 1), folder)
    torch.distributed.checkpoint.save({"state_dict": {"a": torch.ones(1), "b": _Bomb(trace)}}, checkpoint_id=folder)
    with pytest.raises(ConfigError, match="run code"):
        read_sharded(folder)
    assert not trace.exists()
