"""The runs of `lit-align compare`: trained by the command line, measured once, and never trained or measured again."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console

from lit_align import __version__
from lit_align.core.checkpoint_io import newest_checkpoint
from lit_align.core.errors import ConfigError, shorten
from lit_align.core.forward import Scorer
from lit_align.core.policy import load_base
from lit_align.evaluation.compare_data import flat, write_whole
from lit_align.evaluation.held_out import Asking, measure_policy
from lit_align.tools.compare_plan import Method, Plan
from lit_align.tools.export import read_checkpoint, restored_policy, saved_spec

_GIVEN, _CONFIG, _LOG, _RESULT = "given.json", "fit.yaml", "fit.log", "result.json"
_FOOTPRINT, _METRICS = "footprint.json", "metrics.jsonl"
_PLACES = frozenset({"trainer.default_root_dir", "data.train", "data.validation", "data.cache_dir",
                     "data.num_workers", "model.init_args.policy"})  # fmt: skip
"""Settings that may differ: their content is compared, or they change nothing."""


_WARNING = re.compile(r"^\S+:\d+: UserWarning: (.+)$", re.MULTILINE)


class Run(NamedTuple):
    """One method with one seed."""

    method: Method
    seed: int
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration of the run."""
        return self.method.of_run(self.seed, self.folder)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method.slug}, seed {self.seed}"


# -------------------------------------------------------------------- what is there already


def check_folder(run: Run, inputs: Mapping[str, str]) -> None:
    """Refuse a folder that holds another run than this one.

    Raises:
        ConfigError: other settings, other data or another policy; or nothing that `compare` has written.
    """
    given = run.folder / _GIVEN
    if not given.is_file():
        if run.folder.is_dir() and any(run.folder.iterdir()):
            raise ConfigError(
                "a run's folder is in use for something else", got=str(run.folder), fix="choose another --out"
            )
        return
    then, now = json.loads(given.read_text(encoding="utf-8")), _record(run, inputs)
    differences = [
        f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now"
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise ConfigError(
            f"{run.folder} holds a run of other settings, which cannot stand in this table",
            got="; ".join(differences[:6]) + ("; ..." if len(differences) > 6 else ""),
            fix="use the former settings, or choose another --out",
        )


def _record(run: Run, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides about a run; JSON values."""
    settings = {name: value for name, value in flat(run.settings) if name not in _PLACES}
    record = settings | {f"content of {name}": digest for name, digest in inputs.items()}
    return dict(json.loads(json.dumps(record)))


def _short(value: Any) -> str:
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else shorten(value)


def result_of(run: Run, asking: Asking) -> dict[str, Any] | None:
    """What was measured of a run; None where it was not, or was asked for other replies."""
    return _measured(run.folder / _RESULT, asking)


def _measured(file: Path, asking: Asking) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result if result["asking"] == asking._asdict() else None


# -------------------------------------------------------------------- training


def train(run: Run, inputs: Mapping[str, str], lock: int) -> None:
    """Train with the command line, from where an earlier call was interrupted; nothing if that came to its end.

    Args:
        run: which.
        inputs: see `Plan`.
        lock: descriptor that the training process keeps open as long as it lives.

    Raises:
        ConfigError: training failed; its log says why.
    """
    if (run.folder / _FOOTPRINT).is_file():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.folder / _CONFIG, yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True))
    write_whole(run.folder / _GIVEN, json.dumps(_record(run, inputs), indent=1))
    log = run.folder / _LOG
    status = fit(command(run.folder), log, lock, lambda: _steps_logged(run.folder))
    if status != 0:
        raise ConfigError(f"{run.name}: training stopped", got=_last_words(log, status), fix=f"see {log}")
    if not (run.folder / _FOOTPRINT).is_file():
        raise ConfigError(f"{run.name}: training ended early", got=f"no {_FOOTPRINT} in {run.folder}", fix=f"see {log}")


def command(folder: Path) -> list[str]:
    """Arguments of `lit-align` that train a run, or go on with it."""
    return ["fit", "--config", str(folder / _CONFIG), "--ckpt_path", "last"]


def fit(arguments: list[str], log: Path, lock: int, steps: Callable[[], int]) -> int:
    """Run `lit-align` in a process of its own, whose output goes to a file.

    Args:
        arguments: the verb and its options.
        log: file to append to.
        lock: descriptor that the process inherits.
        steps: how many steps were taken, for a terminal that is watched.

    Returns:
        Exit status; below 0, less the number of the signal that ended it.
    """
    line = [sys.executable, "-m", "lit_align", *arguments]
    console = Console(stderr=True)
    with log.open("ab") as output:
        process = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, pass_fds=[lock])
        os.pwrite(lock, f"{process.pid}\n".encode(), 0)
        try:
            with console.status("starting") as status:
                while process.poll() is None:
                    time.sleep(0.2)
                    if console.is_terminal:
                        status.update(f"step {steps()}")
        except BaseException:
            # Nobody waits for it any more, and it goes on from its last checkpoint.
            process.kill()
            process.wait()
            raise
    return process.returncode


def _steps_logged(folder: Path) -> int:
    metrics = folder / _METRICS
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        lines = file.read().splitlines()
    try:
        return int(json.loads(lines[-1]).get("step", 0)) if lines else 0
    except ValueError:
        return 0


def _last_words(log: Path, status: int) -> str:
    """What the training process said in the end, and how it ended."""
    text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    said = text.rpartition("lit-align: ")[2] if "lit-align: " in text[-4000:] else text.rpartition("\n")[2]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}: {'; '.join(' '.join(line.split()) for line in said.splitlines())[:300]}"


def warnings_in(log: Path) -> list[str]:
    """What the training process has warned of, each thing once."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return list(dict.fromkeys(_WARNING.findall(text)))


# -------------------------------------------------------------------- measuring


def measure(run: Run, plan: Plan, asking: Asking) -> dict[str, Any]:
    """Measure a trained policy, and write down what is known of the run."""
    checkpoint = _checkpoint(run)
    spec = saved_spec(checkpoint)
    held_out = _measure(Scorer(restored_policy(checkpoint, spec)), plan, asking)
    footprint = json.loads((run.folder / _FOOTPRINT).read_text(encoding="utf-8"))
    result = {
        "method": run.method.slug,
        "seed": run.seed,
        **footprint,
        "tokens": checkpoint["lit_align"]["num_tokens"],
        "warnings": warnings_in(run.folder / _LOG),
        "asking": asking._asdict(),
        "versions": {"lit-align": __version__, "torch": torch.__version__},
        "held_out": held_out,
    }
    write_whole(run.folder / _RESULT, json.dumps(result))
    return result


def measure_initial(run: Run, plan: Plan, asking: Asking, out: Path) -> dict[str, Any]:
    """Measure the policy that a run began with, once for all runs; see `measure_policy`."""
    file = out / "initial.json"
    known = _measured(file, asking)
    if known is not None and known["key"] == plan.initial:
        return dict(known["held_out"])
    # Quantisation is known to the run's checkpoint only; adapters begin with no effect.
    spec = replace(saved_spec(_checkpoint(run)), lora=None)
    held_out = _measure(Scorer(load_base(spec, plan.trainer.strategy.root_device)), plan, asking)
    write_whole(file, json.dumps({"key": plan.initial, "asking": asking._asdict(), "held_out": held_out}))
    return held_out


def _measure(scorer: Scorer, plan: Plan, asking: Asking) -> dict[str, Any]:
    device = plan.trainer.strategy.root_device
    try:
        return measure_policy(scorer.to(device), plan.held_out, asking, plan.trainer.precision_plugin, plan.batch_size)
    finally:
        # The next training needs the memory.
        del scorer
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _checkpoint(run: Run) -> dict[str, Any]:
    """The newest checkpoint of a run.

    Raises:
        ConfigError: there is none any more.
    """
    newest = newest_checkpoint(run.folder / "checkpoints")
    if newest is None:
        raise ConfigError(
            f"{run.name} has no checkpoint to measure",
            got=str(run.folder / "checkpoints"),
            fix=f"remove {run.folder}, and the run will be trained again",
        )
    return read_checkpoint(newest)
