"""Which checkpoints are written when, which stay, and which one a run goes on from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn

from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.checkpoint_io import AtomicCheckpointIO, is_complete
from lit_align.core.errors import ConfigError
from tests.callbacks.toy import Kill, ToyData, ToyModule, assert_same_run, build_trainer, train
from tests.launch import RankError, launch


def names(folder: Path, inside: str = "checkpoints") -> list[str]:
    found = (path.name.removeprefix("step=") for path in (folder / inside).iterdir())
    return sorted(found, key=lambda name: int(name.split(".")[0]))


def last(folder: Path, checkpoint: RunCheckpoint) -> str | None:
    """What Lightning makes of `ckpt_path="last"`."""
    trainer = build_trainer(folder, [checkpoint])
    path = trainer._checkpoint_connector._parse_ckpt_path(
        TrainerFn.FITTING, "last", model_provided=True, model_connected=True
    )
    return None if path is None else Path(path).name


def test_the_newest_few_stay(tmp_path):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=4, keep=2))
    assert names(tmp_path) == ["24.ckpt", "26.ckpt"], "every 4 steps, and at the end of 26"


def test_all_can_stay(tmp_path):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=10, keep=-1))
    assert names(tmp_path) == ["10.ckpt", "20.ckpt", "26.ckpt"]


def test_steps_are_those_of_the_optimiser(tmp_path):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=2, keep=-1), accumulate_grad_batches=3, max_epochs=1)
    assert names(tmp_path) == ["2.ckpt", "4.ckpt", "5.ckpt"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 7, "max_epochs": -1}, ["7.ckpt"]),
        ({"max_steps": 8, "max_epochs": -1, "val_check_interval": 4}, ["8.ckpt"]),
        ({"max_epochs": 1}, ["13.ckpt"]),
        ({"max_epochs": 1, "limit_val_batches": 0}, ["13.ckpt"]),
    ],
)
def test_the_end_of_training_is_saved(tmp_path, settings, expected):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=0), **settings)
    assert names(tmp_path) == expected


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.mark.parametrize("interval", [4, 1.0])
def test_an_early_end_is_saved(tmp_path, interval):
    train(tmp_path, StopAt(6), checkpoint=RunCheckpoint(every_n_steps=0), val_check_interval=interval)
    assert names(tmp_path) == ["6.ckpt"]


def test_the_end_need_not_be_saved(tmp_path):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=20, save_on_train_end=False))
    assert names(tmp_path) == ["20.ckpt"]


def test_a_validation_can_be_saved(tmp_path):
    checkpoint = RunCheckpoint(every_n_steps=0, keep=-1, save_on_validation=True)
    train(tmp_path, checkpoint=checkpoint, val_check_interval=4, max_epochs=1)
    assert names(tmp_path) == ["4.ckpt", "8.ckpt", "12.ckpt", "13.ckpt"]


def test_a_validation_inside_a_window_is_saved_with_the_next_step(tmp_path):
    checkpoint = RunCheckpoint(every_n_steps=0, keep=-1, save_on_validation=True)
    train(tmp_path, checkpoint=checkpoint, val_check_interval=4, accumulate_grad_batches=3, max_epochs=1)
    assert names(tmp_path) == ["2.ckpt", "3.ckpt", "4.ckpt", "5.ckpt"], "after batches 4, 8 and 12"
    for path in (tmp_path / "checkpoints").iterdir():
        assert torch.load(path, weights_only=True)["exact_resume"]["gradients"] is None


def test_the_newest_complete_one_is_picked(tmp_path):
    assert last(tmp_path, RunCheckpoint()) is None
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=5, keep=-1), max_epochs=1)
    folder = tmp_path / "checkpoints"
    assert last(tmp_path, RunCheckpoint()) == "step=13.ckpt"
    whole = (folder / "step=13.ckpt").read_bytes()
    (folder / "step=13.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "step=99.ckpt").write_bytes(b"")
    (folder / "step=98.ckpt.tmp").write_bytes(whole)
    (folder / "step=97.ckpt").mkdir()
    (folder / "step=97.ckpt" / "meta.pt").write_bytes(whole)
    assert last(tmp_path, RunCheckpoint()) == "step=10.ckpt"


def test_newest_is_by_time_not_by_number(tmp_path):
    """Steps of an earlier run that were copied back into the folder, say."""
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=10), max_epochs=1)
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=3, keep=1), max_epochs=1, max_steps=4)
    for path in (tmp_path / "checkpoints.old").iterdir():
        path.rename(tmp_path / "checkpoints" / path.name)
    assert last(tmp_path, RunCheckpoint()) == "step=4.ckpt"


def kept_aside(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints.old").iterdir())


def test_a_new_run_sets_the_checkpoints_of_an_earlier_one_aside(tmp_path, capsys):
    train(tmp_path, max_steps=2)
    assert not capsys.readouterr().out
    (tmp_path / "checkpoints" / "notes.txt").touch()
    train(tmp_path, max_steps=4)
    assert capsys.readouterr().out.splitlines() == [
        f"checkpoints of an earlier run were moved to {tmp_path / 'checkpoints.old'}"
    ]
    assert kept_aside(tmp_path) == ["step=2.ckpt"]
    (tmp_path / "checkpoints" / "notes.txt").unlink()
    train(tmp_path, max_steps=6)
    assert kept_aside(tmp_path) == ["step=2.ckpt", "step=4.ckpt"]
    assert names(tmp_path) == ["4.ckpt", "6.ckpt"]


def test_a_run_killed_before_its_first_checkpoint_does_not_go_on_from_an_earlier_one(tmp_path):
    settings = {"max_epochs": 1, "accumulate_grad_batches": 2}
    whole = train(tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    train(folder, max_steps=6)
    older = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    for ckpt_path in (None, "last"):
        with pytest.raises(RankError, match="died"):
            launch(train, folder, Kill("on_train_batch_end", 2), ckpt_path=ckpt_path, world=1, **settings)
        assert last(folder, RunCheckpoint()) is None
    assert_same_run(whole, train(folder, ckpt_path="last", **settings), tmp_path / "whole", folder)
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints.old").iterdir()} == older


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_going_back_sets_the_later_checkpoints_aside(tmp_path):
    """Killed before its next save, the run must not go on from the steps that it took anew."""
    train(tmp_path, max_steps=6)
    file = tmp_path / "checkpoints" / "step=4.ckpt"
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, Kill("on_train_batch_end", 1), ckpt_path=str(file), world=1)
    assert names(tmp_path) == ["4.ckpt"]
    assert names(tmp_path, "checkpoints.old") == ["6.ckpt"]


def test_going_on_from_an_earlier_run(tmp_path):
    """Its checkpoint comes back into the folder, those of the run since then leave it, and nothing is lost."""
    first = train(tmp_path, max_steps=4)
    train(tmp_path, max_steps=6)
    assert names(tmp_path, "checkpoints.old") == ["2.ckpt", "4.ckpt"]
    file = tmp_path / "checkpoints.old" / "step=4.ckpt"
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, Kill("on_train_batch_end", 1), ckpt_path=str(file), world=1)
    assert names(tmp_path) == ["4.ckpt"]
    assert names(tmp_path, "checkpoints.old") == ["2.ckpt", "4.ckpt"]
    assert names(tmp_path, "checkpoints.older") == ["4.ckpt", "6.ckpt"]
    kept = torch.load(tmp_path / "checkpoints" / "step=4.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(kept, dict(first.state_dict()), rtol=0, atol=0)


def test_a_checkpoint_of_another_name_is_taken_in(tmp_path):
    train(tmp_path, max_steps=4)
    file = (tmp_path / "checkpoints" / "step=2.ckpt").rename(tmp_path / "mine.ckpt")
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, Kill("on_train_batch_end", 1), ckpt_path=str(file), world=1)
    assert names(tmp_path) == ["2.ckpt"]
    assert step_of(tmp_path / "checkpoints" / "step=2.ckpt") == 2
    assert file.exists()


class Evaluated(ToyModule):
    test_step = predict_step = ToyModule.validation_step

    def log(self, *args, **kwargs): ...


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_only_training_sets_aside(tmp_path, verb):
    train(tmp_path, max_steps=2)
    trainer = build_trainer(tmp_path, [RunCheckpoint()])
    getattr(trainer, verb)(Evaluated(), ToyData().val_dataloader())
    train(tmp_path, fast_dev_run=2)
    assert names(tmp_path) == ["2.ckpt"]


def test_a_second_fit_of_the_same_trainer_is_no_new_run(tmp_path):
    module, trainer = ToyModule(), build_trainer(tmp_path, [ExactResume(), RunCheckpoint(every_n_steps=2)], max_steps=2)
    trainer.fit(module, ToyData())
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(module, ToyData())
    assert names(tmp_path) == ["2.ckpt", "4.ckpt"]


def test_another_folder(tmp_path):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=4, dirpath=str(tmp_path / "elsewhere")), max_steps=4)
    assert (tmp_path / "elsewhere" / "step=4.ckpt").is_file()
    assert not (tmp_path / "checkpoints").exists()
    assert last(tmp_path, RunCheckpoint(dirpath=str(tmp_path / "elsewhere"))) == "step=4.ckpt"


def test_what_killed_writers_left_is_removed_at_the_start_of_training_only(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "step=7.ckpt.tmp").mkdir(parents=True)
    (folder / "step=8.ckpt.tmp").write_bytes(b"half")
    trainer = build_trainer(tmp_path, [RunCheckpoint()])
    trainer.validate(ToyModule(), ToyData())
    assert len(list(folder.iterdir())) == 2
    train(tmp_path, max_steps=2)
    assert names(tmp_path) == ["2.ckpt"]


def test_a_resumed_run_prunes_what_the_killed_one_wrote(tmp_path):
    settings = {"max_epochs": 1}
    checkpoint = partial(RunCheckpoint, every_n_steps=2, keep=2)
    with pytest.raises(RankError, match="died"):
        launch(train, tmp_path, Kill("on_train_batch_end", 8), checkpoint=checkpoint(), world=1, **settings)
    assert names(tmp_path) == ["4.ckpt", "6.ckpt"]
    train(tmp_path, checkpoint=checkpoint(), ckpt_path="last", **settings)
    assert names(tmp_path) == ["12.ckpt", "13.ckpt"]


def test_settings_may_change_when_a_run_is_resumed(tmp_path, recwarn):
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=2), max_steps=4)
    train(tmp_path, checkpoint=RunCheckpoint(every_n_steps=3, keep=1), ckpt_path="last", max_steps=6)
    assert names(tmp_path) == ["6.ckpt"]
    assert not [w for w in recwarn if "callbacks used to create the checkpoint" in str(w.message)]


def test_best_is_the_newest(tmp_path):
    module = ToyModule()
    trainer = build_trainer(tmp_path, [ExactResume(), RunCheckpoint(every_n_steps=5)], max_epochs=1)
    trainer.fit(module, ToyData())
    assert Path(trainer.checkpoint_callback.best_model_path).name == "step=13.ckpt"
    trainer.validate(ckpt_path="best", datamodule=ToyData())


class Uploads(Logger):
    """Looks for the file when it is told of a checkpoint."""

    name = version = ""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def log_metrics(self, *args, **kwargs): ...

    def log_hyperparams(self, *args, **kwargs): ...

    def after_save_checkpoint(self, checkpoint_callback):
        self.found.append(Path(checkpoint_callback.best_model_path).is_file())


@pytest.mark.parametrize("writer", [AtomicCheckpointIO, TorchCheckpointIO])
def test_loggers_hear_of_finished_files(tmp_path, writer):
    logger = Uploads()
    train(tmp_path, max_steps=4, logger=logger, plugins=[writer()])
    assert logger.found == [True, True]
    assert names(tmp_path) == ["2.ckpt", "4.ckpt"]


def test_nothing_is_written_in_a_trial_run(tmp_path):
    train(tmp_path, fast_dev_run=2)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("setting", [{"every_n_steps": -1}, {"keep": 0}, {"keep": -2}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        RunCheckpoint(**setting)


# -------------------------------------------------------------------- sharded folders


class KillWhenNamed(Callback):
    """SIGKILL of rank 0 when the second folder has all its files, but not yet its name."""

    def setup(self, trainer, pl_module, stage):
        if trainer.global_rank == 0:
            from lit_align.callbacks import checkpoint

            checkpoint.publish = Kill("publish", 2).publish


def sharded_run(folder, *extra, ckpt_path=None):
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    module = train(folder, *extra, ckpt_path=ckpt_path, devices=2, strategy=strategy, max_epochs=1)
    return [parameter.full_tensor().tolist() for parameter in module.policy.parameters()]


def test_sharded_folders_appear_whole(tmp_path):
    whole = launch(sharded_run, tmp_path / "whole")
    assert names(tmp_path / "whole") == ["4.ckpt", "6.ckpt"]
    folder = tmp_path / "killed"
    with pytest.raises(RankError, match="died"):
        launch(sharded_run, folder, KillWhenNamed())
    assert names(folder) in (["2.ckpt.tmp", "4.ckpt.tmp"], ["2.ckpt", "4.ckpt.tmp"])
    assert launch(sharded_run, folder, ckpt_path="last") == whole
    assert names(folder) == ["4.ckpt", "6.ckpt"]
    assert not (folder / "checkpoints.old").exists()


def test_sharded_folders_of_an_earlier_run_are_set_aside(tmp_path):
    launch(sharded_run, tmp_path)
    with pytest.raises(RankError, match="died"):
        launch(sharded_run, tmp_path, Kill("on_train_batch_end", 1))
    assert not names(tmp_path)
    assert [is_complete(tmp_path / "checkpoints.old" / name) for name in kept_aside(tmp_path)] == [True, True]
