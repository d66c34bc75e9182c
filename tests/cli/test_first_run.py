"""`first: FILE`: the run before a run is trained and exported by the same command, once."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest
import yaml

from lit_align.__main__ import main
from lit_align.core.errors import ConfigError
from lit_align.tools.first_run import find_first, train_first


def settings(policy: str, folder: str, **more) -> dict:
    """A configuration of two steps of DPO."""
    return {
        "model": {"class_path": "DPO", "init_args": {"policy": policy, "learning_rate": 1e-3}},
        "data": {"train": "pairs.jsonl", "batch_size": 2},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "default_root_dir": folder, "enable_progress_bar": False},
        **more,
    }


@pytest.fixture
def two(folder) -> tuple[Path, Path]:
    """Configurations of a first run and of the one after it, in a folder of their own."""
    (folder / "mine").mkdir()
    first, second = folder / "mine" / "first.yaml", folder / "mine" / "second.yaml"
    first.write_text(yaml.safe_dump(settings("model", "runs/first")))
    second.write_text(yaml.safe_dump(settings("runs/first/export", "runs/second", first="first.yaml")))
    return first, second


def test_one_command_trains_both_and_the_first_only_once(two, capfd):
    assert main(["fit", "--config", str(two[1])]) == 0
    assert Path("runs/first/export/model.safetensors").is_file()
    assert list(Path("runs/second/checkpoints").glob("*.ckpt"))
    assert "first: lit-align fit --config" in capfd.readouterr().out
    written = Path("runs/first/export/model.safetensors").stat().st_mtime_ns
    # What the run folder keeps serves every verb, and names no first run.
    assert "first" not in yaml.safe_load(Path("runs/second/config.yaml").read_text())
    assert main(["fit", "--config", str(two[1]), "--ckpt_path", "last"]) == 0
    assert Path("runs/first/export/model.safetensors").stat().st_mtime_ns == written
    said = capfd.readouterr().out
    assert "first: runs/first/export is there" in said
    assert "first: lit-align" not in said


def test_mistakes_of_the_second_run_are_found_before_the_first_is_trained(two, capfd):
    assert main(["fit", "--config", str(two[1]), "--model.betta", "1"]) == 2
    assert "betta" in capfd.readouterr().err
    assert not Path("runs").exists()


def test_a_first_run_that_fails_ends_the_command(two, capfd):
    two[0].write_text(yaml.safe_dump(settings("no_such_model", "runs/first")))
    assert main(["fit", "--config", str(two[1])]) == 2
    error = capfd.readouterr().err
    assert "no_such_model" in error
    assert "the first run failed" in error
    assert not Path("runs/second").exists()


def test_another_policy_needs_no_first_run(two, capfd):
    assert main(["fit", "--config", str(two[1]), "--model.policy", "model"]) == 0
    assert "leaving out first" in capfd.readouterr().out
    assert not Path("runs/first").exists()


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "2"), ("SLURM_NTASKS", "8")])
def test_several_processes_do_not_train_it(two, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"several processes[\s\S]*lit-align export runs/first"):
        train_first(two[0], yaml.safe_load(two[0].read_text()), "runs/first/export")


def test_a_first_run_has_a_folder(two):
    with pytest.raises(ConfigError, match="default_root_dir"):
        train_first(two[0], {"trainer": {"max_steps": 1}}, "model")


def test_a_first_run_that_is_not_there_is_named(two, capfd):
    two[0].unlink()
    assert main(["fit", "--config", str(two[1])]) == 2
    assert "first.yaml" in capfd.readouterr().err


def test_a_first_run_that_was_stopped_is_not_exported(two, capfd, monkeypatch):
    stop = textwrap.dedent("""
        import os, signal
        from lightning.pytorch import Callback
        class Stop(Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 1 and not os.path.exists("stopped"):
                    open("stopped", "w").close()
                    os.kill(os.getpid(), signal.SIGTERM)
    """)
    Path("mine_too.py").write_text(stop)
    first = settings("model", "runs/first")
    first["trainer"]["callbacks"] = [{"class_path": "mine_too.Stop"}]
    two[0].write_text(yaml.safe_dump(first))
    assert main(["fit", "--config", str(two[1])]) != 0
    assert not Path("runs/first/export").exists()
    # The same command goes on.
    assert main(["fit", "--config", str(two[1])]) == 0
    assert Path("runs/first/export/model.safetensors").is_file()


def test_a_first_run_does_not_wait_for_itself(two, capfd):
    two[0].write_text(yaml.safe_dump(settings("runs/first/export", "runs/first", first="first.yaml")))
    assert main(["fit", "--config", str(two[1])]) == 2
    assert "waits for itself" in capfd.readouterr().err


def test_what_has_changed_since_the_first_run_is_said(two, capfd):
    assert main(["fit", "--config", str(two[1])]) == 0
    later = Path("runs/first/export").stat().st_mtime + 10
    os.utime(two[0], (later, later))
    assert main(["fit", "--config", str(two[1]), "--ckpt_path", "last"]) == 0
    assert f"{two[0]} is newer" in capfd.readouterr().out


def test_no_file_here_hides_a_library_from_the_first_run(two):
    Path("statistics.py").write_text("raise ImportError('not the library')")
    assert main(["fit", "--config", str(two[1])]) == 0


def test_it_is_looked_for_beside_the_configuration_and_here(two, tmp_path):
    assert find_first("first.yaml", [two[1]]) == two[0]
    assert find_first("mine/first.yaml", [two[1]]) == Path("mine/first.yaml")
    assert find_first("no.yaml", [two[1]]) == Path("no.yaml")


def test_other_verbs_need_no_first_run(two, capfd):
    two[0].unlink()
    assert main(["preview", "--config", str(two[1]), "--model.policy", "model"]) == 0


def test_a_first_run_with_nothing_left_to_train_is_exported(two):
    """Killed after its last checkpoint, it has no end in its record, and never gets one."""
    assert main(["fit", "--config", str(two[0])]) == 0
    record = Path("runs/first/run.json")
    found = json.loads(record.read_text())
    found["sessions"][-1]["outcome"] = None
    record.write_text(json.dumps(found))
    assert main(["fit", "--config", str(two[1])]) == 0
    assert Path("runs/first/export/model.safetensors").is_file()
