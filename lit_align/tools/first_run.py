"""The run before a run: `first: FILE` in a configuration of `lit-align fit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lit_align.callbacks import run_record
from lit_align.core.errors import ConfigError
from lit_align.tools.one_at_a_time import alone

_PROCESSES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where launchers say how many processes they have started."""
_CHAIN = "LIT_ALIGN_FIRST"
"""Configurations that wait for a first run to end, in the environment of its process."""


def find_first(name: str, configs: Iterable[Path]) -> Path:
    """The file that `first` means: beside a configuration of this run, or from the working directory."""
    places = [*(config.parent / name for config in configs), Path(name)]
    return next((place for place in places if place.is_file()), Path(name))


def train_first(path: Path, first: dict[str, Any], policy: str, nodes: int = 1) -> None:
    """Train another configuration, from where it was killed, and export it; nothing where the export is there.

    Args:
        path: the other configuration.
        first: what it says.
        policy: of the run that comes after.
        nodes: machines of that run.

    Raises:
        ConfigError: there are several processes already, the first run waits for itself, or it did not come to its end.
    """
    trainer = first.get("trainer")
    folder = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    if folder is None:
        raise ConfigError(
            "the first run has no folder",
            got=f"{path} without trainer.default_root_dir",
            fix="say there where it is to be kept",
        )
    export = Path(folder) / "export"
    if Path(policy).resolve() != export.resolve():
        rank_zero_only(print)(f"leaving out first: {path}, whose export {export} is not model.policy, {policy}")
        return
    if export.is_dir():
        rank_zero_only(print)(f"first: {export} is there; without it {path} would be trained again")
        if newer := _newer(path, first, export):
            rank_zero_only(print)(f"first: {newer} is newer than {export}: remove that if it is to be made again")
        return
    if nodes > 1 or any(int(os.environ.get(name) or 1) > 1 for name in _PROCESSES):
        raise ConfigError(
            "a first run is not started by several processes",
            got=f"first: {path}, and no {export}",
            fix=f"run `lit-align fit --config {path}` and `lit-align export {folder}` before",
        )
    waiting = os.environ.get(_CHAIN, "").split(os.pathsep)
    if str(path.resolve()) in waiting:
        raise ConfigError("a first run waits for itself", got=f"first: {path}", fix="take `first` out of one of them")
    chain = os.pathsep.join([*filter(None, waiting), str(path.resolve())])
    # A killed command leaves its training behind, which the next one has to wait for.
    with alone(Path(folder)) as lock:
        if not export.is_dir():
            before = len(_sessions(Path(folder)))
            _lit_align(["fit", "--config", str(path), "--ckpt_path", "last"], lock, chain)
            _check_end(Path(folder), before)
            _lit_align(["export", str(folder)], lock, chain)


def _newer(path: Path, first: dict[str, Any], export: Path) -> Path | None:
    """What the export was made of, where that has changed since: the configuration, or the model it begins with."""
    model = first.get("model")
    arguments = (model.get("init_args") if isinstance(model, dict) else None) or {}
    begin = Path(str(arguments.get("policy"))) / "config.json"
    made = export.stat().st_mtime
    return next((file for file in (path, begin) if file.is_file() and file.stat().st_mtime > made), None)


def _sessions(folder: Path) -> list[dict[str, Any]]:
    """What is known of the processes that have trained a run."""
    record = folder / run_record.FILE
    return list(json.loads(record.read_text(encoding="utf-8"))["sessions"]) if record.is_file() else []


def _check_end(folder: Path, before: int) -> None:
    """Refuse to go on from a training that was stopped.

    Args:
        folder: of the run.
        before: sessions that it had before the last call, which succeeded; if it added none, nothing was left to train.

    Raises:
        ConfigError: it was, by a signal for example, after which it ends as if nothing were amiss.
    """
    sessions = _sessions(folder)
    if not sessions or (len(sessions) > before and sessions[-1]["outcome"] != "finished"):
        raise ConfigError(
            "the first run ended early",
            got=f"{folder / run_record.FILE}: {sessions[-1]['outcome'] if sessions else 'no session'}",
            fix="the same command goes on from its last checkpoint",
        )


def _lit_align(arguments: list[str], lock: int, chain: str) -> None:
    """Run a verb in a process of its own: two trainings in one would share seeds, ports and groups of processes."""
    print(f"first: lit-align {' '.join(arguments)}", flush=True)
    # As for the command itself, no file of the working directory hides a library.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", _CHAIN: chain}
    process = subprocess.Popen([sys.executable, "-m", "lit_align", *arguments], pass_fds=[lock], env=environment)
    os.pwrite(lock, f"{process.pid}\n".encode(), 0)
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        raise ConfigError(
            "the first run failed",
            got=f"exit status {status} of `lit-align {' '.join(arguments)}`",
            fix="see its message above",
        )
