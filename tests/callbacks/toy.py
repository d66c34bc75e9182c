"""A preference learner of a few dozen weights, with the attributes that callbacks rely on and a loader that resumes."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.checkpoint_io import AtomicCheckpointIO
from lit_align.core.module import StepRecord
from lit_align.core.sharding import shard
from lit_align.evaluation.jsonl_logger import JsonlLogger
from lit_align.references import Reference

PAIRS = 26
BATCH = 2


class ToyReference(Reference):
    """A copy of the policy."""

    can_refresh = True

    def build(self, policy: Any, spec: Any) -> None:
        self.copy = copy.deepcopy(policy).requires_grad_(False)

    def token_logps(self, rows: Any) -> Tensor:
        return self.copy(rows)

    @torch.no_grad()
    def refresh(self, policy: Any, alpha: float) -> None:
        for mine, theirs in zip(self.copy.parameters(), policy.parameters(), strict=True):
            mine.lerp_(theirs, alpha)


class ToyModule(LightningModule):
    """DPO on vectors: what stands for a log-probability is the output of a small network with dropout."""

    def __init__(self, poison: dict[int, float] | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        self.poison = poison or {}
        """Factors on the losses of some rows."""
        self.dropout = dropout
        self.policy: nn.Module
        self.reference: Reference | None = None
        self.reference_will_refresh = False
        self.last_step: StepRecord | None = None
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if hasattr(self, "policy"):
            return
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.policy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(8, 1))
        self.reference = ToyReference()
        self.reference.build(self.policy, None)
        if self._device_mesh is not None:
            shard(self.policy, self._device_mesh["data_parallel"])
            shard(self.reference.copy, self._device_mesh["data_parallel"])
        self.policy.train()

    def check_names(self, saved: set[str]) -> None:
        assert saved == set(self.state_dict())

    def _values(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        chosen, rejected = self.policy(batch["chosen"])[:, 0], self.policy(batch["rejected"])[:, 0]
        with torch.no_grad():
            margin = (self.reference.token_logps(batch["chosen"]) - self.reference.token_logps(batch["rejected"]))[:, 0]
        margins = chosen - rejected - margin
        return -nn.functional.logsigmoid(margins), chosen.detach(), margins.detach()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        values, chosen, margins = self._values(batch)
        values = values * torch.tensor([self.poison.get(row, 1.0) for row in batch["row"].tolist()])
        loss = values.mean()
        self.losses.append(loss.item())
        metrics = {"logps/chosen": chosen.mean().item(), "rewards/margins": margins.mean().item()}
        self.last_step = StepRecord(loss.detach(), values.detach(), batch["row"], metrics)
        self.log("loss", loss)
        self.log("rewards/margins", margins.mean())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", self._values(batch)[0].mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.policy.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ToyLoader:
    """Batches in an order that follows from the epoch, from any position on."""

    def __init__(self, data: ToyData, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world
        self.sampler = self
        self.epoch = self.position = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return PAIRS // (self.data.batch_size * self.world)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.position, self.data.pending = self.data.pending, 0
        order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(self.epoch))
        size = self.data.batch_size * self.world
        for start in range(self.position * size, len(self) * size, size):
            self.position += 1
            yield self.data.batch(order[start : start + size][self.rank :: self.world])


class ToyData(LightningDataModule):
    """Pairs of vectors."""

    def __init__(self, batch_size: int = BATCH) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.pending = 0
        generator = torch.Generator().manual_seed(1)
        self.chosen = torch.randn(PAIRS, 4, generator=generator) + 0.3
        self.rejected = torch.randn(PAIRS, 4, generator=generator)
        self.loader: ToyLoader | None = None

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        return {"chosen": self.chosen[index], "rejected": self.rejected[index], "row": index + 1}

    def train_dataloader(self) -> ToyLoader:
        self.loader = ToyLoader(self, self.trainer.global_rank, self.trainer.world_size)
        return self.loader

    def val_dataloader(self) -> DataLoader:
        batches = [self.batch(torch.arange(start, start + 3)) for start in (0, 3, 6)]
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def state_dict(self) -> dict[str, Any]:
        loader = self.loader
        return {"position": loader.position % self.trainer.num_training_batches} if loader is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pending = state["position"]


class Kill(Callback):
    """SIGKILL, the n-th time that a hook is reached."""

    def __init__(self, hook: str, count: int) -> None:
        self.left = count

        def strike(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, hook, strike)


class KilledWriter(AtomicCheckpointIO):
    """SIGKILL in the middle of the n-th checkpoint file."""

    def __init__(self, count: int) -> None:
        self.left = count

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{path}.tmp").write_bytes(b"PK\x03\x04 the first half")
            os.kill(os.getpid(), signal.SIGKILL)
        super().save_checkpoint(checkpoint, path, storage_options)


def build_trainer(folder: Path, callbacks: list[Callback] | None = None, **kwargs: Any) -> Trainer:
    """A quiet trainer on one CPU that logs every step."""
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "inference_mode": False, "logger": [JsonlLogger(str(folder))],
    }  # fmt: skip
    trainer = Trainer(default_root_dir=folder, callbacks=callbacks or [], **(settings | kwargs))
    if isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)) and "plugins" not in kwargs:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def train(
    folder: Path,
    *extra: Callback,
    ckpt_path: str | None = None,
    checkpoint: RunCheckpoint | None = None,
    module: ToyModule | None = None,
    data: ToyData | None = None,
    **kwargs: Any,
) -> ToyModule:
    """Run a toy with exact resume, or go on with it."""
    seed_everything(11, verbose=False)
    module = module or ToyModule()
    checkpoint = checkpoint or RunCheckpoint(every_n_steps=2)
    trainer = build_trainer(folder, [ExactResume(), *extra, checkpoint], **kwargs)
    trainer.fit(module, data or ToyData(), ckpt_path=ckpt_path)
    return module


def rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: ToyModule, other: ToyModule, folder: Path, other_folder: Path) -> None:
    """Weights, logs and alarms are equal, bit for bit."""
    expected = one.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())
    for name in ("metrics.jsonl", "alarms.jsonl"):
        assert (other_folder / name).read_bytes() == (folder / name).read_bytes()
