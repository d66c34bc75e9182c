"""The report of a run, written when it is over."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_align.evaluation.report import build_report


class RunReport(Callback):
    """Writes `report.html` into the run folder when training has come to its end, as `lit-align report` does.

    Args:
        title: heading of the page; None: the method and the folder.
    """

    def __init__(self, title: str | None = None) -> None:
        self.title = title
        self._finished = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the other callbacks, which write what the page shows."""
        self._finished = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the page."""
        finished, self._finished = self._finished, False
        if finished and trainer.is_global_zero and not trainer.fast_dev_run:
            folder = Path(trainer.default_root_dir)
            print(f"report: {build_report(folder, folder / 'report.html', self.title or '')}", flush=True)
