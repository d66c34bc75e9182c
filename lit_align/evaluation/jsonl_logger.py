"""Metrics as JSON lines in the run folder: exact, append-only, and the same after a restart as without one."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_align.evaluation.jsonl_file import JsonlFile


class JsonlLogger(Logger):
    """Appends one JSON object per logging call to `<save_dir>/metrics.jsonl`.

    `step` is the optimiser step in which a line was logged, counted from 1 like those of checkpoints: what was logged
    in step 20 belongs to `step=20.ckpt`. Lightning counts from 0 for its loggers. A validation inside an accumulation
    window counts to the step that the window ends with.

    Hyperparameters go to `hparams.json` beside it, alarms (see `evaluation.alarms`) to `alarms.jsonl`. The
    `ExactResume` callback saves the files' lengths with every checkpoint and cuts the files back when training resumes,
    so that metrics and alarms of a run that was killed and resumed are those of a run that was not. Only rank 0 writes.

    Args:
        save_dir: the run folder; the trainer's `default_root_dir` is the right one.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self.file = JsonlFile(Path(save_dir) / "metrics.jsonl")
        self.alarms = JsonlFile(Path(save_dir) / "alarms.jsonl")
        self._hyperparams: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return self.file.path.stem

    @property
    def version(self) -> str:
        """Empty: a run folder holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.file.path.parent)

    @property
    def root_dir(self) -> str:
        """The run folder."""
        return self.save_dir

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return self.save_dir

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a line.

        Args:
            metrics: names and scalar values.
            step: as Lightning counts for its loggers, from 0.
        """
        self._write_hyperparams()
        self.file.append(self.record(metrics, step))

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep them until training logs: a run that is refused leaves the file of the one before it."""
        self._hyperparams = vars(params) if isinstance(params, Namespace) else dict(params)

    def _write_hyperparams(self) -> None:
        """Write `hparams.json` once; values that JSON does not know are written as text."""
        values, self._hyperparams = self._hyperparams, None
        if values is None:
            return
        path = self.file.path.with_name("hparams.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @staticmethod
    def record(metrics: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """The object that a line holds: step (from 1), epoch, then the metrics by name.

        The order of logging would tell whether the run was resumed: it is that in which Lightning first saw them.
        """
        values = {name: _plain(metrics[name]) for name in sorted(metrics)}
        head = {} if step is None else {"step": step + 1}
        if "epoch" in values:
            head["epoch"] = values.pop("epoch")
        return head | values


def _plain(value: Any) -> Any:
    """A number of Python's own instead of a tensor or a NumPy scalar."""
    return value.item() if hasattr(value, "item") else value
