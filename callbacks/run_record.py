"""What was run, when and with what: written when training starts, so that a killed run has left it too."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_align.core.hyperparameters import as_plain
from lit_align.evaluation.alarms import data_alarms, record_alarm
from lit_align.evaluation.environment import command_line, now, versions

FILE = "run.json"
_TRAINER = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "log_every_n_steps",
            "val_check_interval", "limit_val_batches", "precision", "world_size")  # fmt: skip
_DATA = ("batch_size", "max_tokens_per_batch", "bucket", "shuffle", "seed", "drop_last", "val_split", "split_seed",
         "streaming", "stream_buffer", "num_workers")  # fmt: skip


class RunRecord(Callback):
    """Writes `<default_root_dir>/run.json`: method, policy, settings, and a list of sessions.

    A session is one process that trained: `command`, `seed`, `versions`, `device`, `processes`, `started` and `ended`
    (UTC), `from_step` and `to_step`, and its `outcome`: `finished`, what stopped it, or null while it runs and where it
    was killed. A run that is resumed gets a session more. What the data report finds that should not be passed over
    goes to alarms.jsonl.
    """

    def __init__(self) -> None:
        # Tells whether the file in the folder is that of the run whose checkpoint is resumed.
        self._run = ""
        self._record: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a record, or add a session to it."""
        resumed, self._record = trainer.global_step > 0 and bool(self._run), None
        if not resumed:
            self._run = uuid.uuid4().hex
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        path = self._path(trainer)
        before = _read(path) if path.is_file() else {}
        same = resumed and before.get("run") == self._run
        if before and not same:
            os.replace(path, path.with_name(f"{FILE}.old"))
        sessions = before["sessions"] if same else []
        self._record = {
            "run": self._run,
            "method": type(pl_module).__name__,
            "policy": getattr(pl_module, "policy_name", None),
            "settings": _settings(trainer, pl_module),
            "sessions": [*sessions, _session(trainer)],
        }
        self._write(trainer)
        if trainer.global_step == 0:
            splits: dict[str, list[str]] = {}
            for split, report in getattr(trainer.datamodule, "reports", {}).items():
                # Two splits of one file have one report.
                splits.setdefault(json.dumps(report.to_dict(), sort_keys=True), []).append(split)
            for text, names in splits.items():
                for alarm in data_alarms(" and ".join(names), json.loads(text)):
                    record_alarm(trainer.loggers, alarm)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training has come to its end."""
        self._close(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what stopped it."""
        first = str(exception).strip().partition("\n")[0]
        self._close(trainer, ": ".join(filter(None, (type(exception).__name__, first[:300]))))

    def state_dict(self) -> dict[str, Any]:
        """Which run it is."""
        return {"run": self._run}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run of the checkpoint."""
        self._run = state_dict["run"]

    def _close(self, trainer: Trainer, outcome: str) -> None:
        if self._record is None:
            return
        self._record["sessions"][-1] |= {"ended": now(), "to_step": trainer.global_step, "outcome": outcome}
        self._write(trainer)
        self._record = None

    def _write(self, trainer: Trainer) -> None:
        path = self._path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(self._record, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(draft, path)

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / FILE


def _read(path: Path) -> dict[str, Any]:
    """A record; one that is damaged tells nothing, and makes way for a new one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {"run": None}
    fine = isinstance(found, dict) and isinstance(found.get("sessions"), list)
    return found if fine else {"run": None}


def _session(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    planned = trainer.estimated_stepping_batches
    return {
        "started": now(),
        "ended": None,
        "outcome": None,
        "from_step": trainer.global_step,
        "to_step": None,
        "planned_steps": int(planned) if planned < float("inf") else None,
        "command": command_line(),
        # Lightning keeps it in the environment, for the other processes of a job.
        "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED", "")).isdigit() else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "processes": trainer.world_size,
        "versions": versions(),
    }


def _settings(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What a run in Python, without a config.yaml, was given; plain values."""

    def named(owner: Any, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: as_plain(getattr(owner, name)) for name in names if hasattr(owner, name)}

    model: Mapping[str, Any] = pl_module.hparams
    callbacks = [type(callback).__name__ for callback in trainer.callbacks]
    return {
        "model": {name: as_plain(value) for name, value in model.items() if not name.startswith("_")},
        "data": named(trainer.datamodule, _DATA),
        "trainer": named(trainer, _TRAINER) | {"callbacks": callbacks},
    }
