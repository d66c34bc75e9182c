"""A callback that kills its own process with SIGKILL, again and again, at operations drawn by a seed."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from tests.loops.loop_runs import Operations


class KillAgain(Operations):
    """Kills every process of a run but the last; a file in the run folder counts how often it has.

    Args:
        kills: how often.
        seed: decides where.
        most: operations that a process lives at most; more than lie between two checkpoints, or nothing moves on.
    """

    def __init__(self, kills: int, seed: int, most: int) -> None:
        super().__init__(act=self._kill)
        self.kills, self.seed, self.most = kills, seed, most

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.counted = Path(trainer.default_root_dir) / "kills"
        done = int(self.counted.read_text()) if self.counted.exists() else 0
        if done < self.kills:
            self.last = random.Random(f"{self.seed}/{done}").randint(1, self.most)
        self.__enter__()

    def teardown(self, *_: Any, **__: Any) -> None:
        self.__exit__()

    def _kill(self) -> None:
        done = int(self.counted.read_text()) if self.counted.exists() else 0
        self.counted.parent.mkdir(parents=True, exist_ok=True)
        self.counted.write_text(str(done + 1))
        os.kill(os.getpid(), signal.SIGKILL)
