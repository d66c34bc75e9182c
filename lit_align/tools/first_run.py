"""The run before a run: `first: FILE` in a configuration of `lit-align fit`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lit_align.core.errors import ConfigError
from lit_align.tools.one_at_a_time import alone

_PROCESSES = ("WORLD_SIZE", "SLURM_NTASKS")
"""Where launchers say how many processes they have started."""


def train_first(path: Path, first: dict[str, Any], policy: str) -> None:
    """Train another configuration, from where it was killed, and export it; nothing where the export is there.

    Args:
        path: the other configuration.
        first: what it says.
        policy: of the run that comes after.

    Raises:
        ConfigError: the run after it begins with another model, there are several processes already, or it failed.
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
        return
    if any(int(os.environ.get(name) or 1) > 1 for name in _PROCESSES):
        raise ConfigError(
            "a first run is not started by several processes",
            got=f"first: {path}, and no {export}",
            fix=f"run `lit-align fit --config {path}` and `lit-align export {folder}` before",
        )
    # A killed command leaves its training behind, which the next one has to wait for.
    with alone(Path(folder)) as lock:
        for arguments in (["fit", "--config", str(path), "--ckpt_path", "last"], ["export", str(folder)]):
            if not export.is_dir():
                _lit_align(arguments, lock)


def _lit_align(arguments: list[str], lock: int) -> None:
    """Run a verb in a process of its own: two trainings in one would share seeds, ports and groups of processes."""
    print(f"first: lit-align {' '.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "lit_align", *arguments], pass_fds=[lock])
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
