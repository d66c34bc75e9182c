"""How examples become loaders: the settings of batching, and what the trainer says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

from lit_align.core.batch import Layout
from lit_align.data.batching import Budget, Size
from lit_align.data.collate import Collator
from lit_align.data.loader import BatchLoader, ResumableLoader, Run, State
from lit_align.data.row_stream import RowStream
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.data.store import ExampleStore
from lit_align.data.stream import StreamLoader


@dataclass(frozen=True)
class Batching:
    """Settings of `PreferenceDataModule` that concern batches, and the place of this process among others."""

    batch_size: int
    max_tokens_per_batch: int | None
    bucket: bool
    shuffle: bool
    seed: int
    drop_last: bool
    num_workers: int
    stream_buffer: int
    layout: Layout = Layout.PADDED
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False

    def training(self, examples: ExampleStore, collate: Collator, run: Run) -> ResumableLoader:
        """Loader of training batches."""
        return ResumableLoader(
            examples,
            self._training_sampler(examples.sizes),
            collate,
            run,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def stream(self, stream: RowStream, collate: Collator, run: Run) -> StreamLoader:
        """Loader of training batches that are read while training."""
        settings = (self.batch_size, self.max_tokens_per_batch, self.bucket, self.shuffle, self.seed, self.drop_last)
        return StreamLoader(
            stream,
            self._training_sampler,
            collate,
            run,
            buffer=self.stream_buffer,
            order=f"{stream.source}/{stream.pipeline.recipe}/{settings}/{self.layout.value}/{self.world_size}",
        )

    def evaluation(self, examples: ExampleStore, collate: Collator) -> BatchLoader:
        """Loader that gives each example once, over all processes."""
        sampler = ResumableBatchSampler(
            examples.sizes,
            self._budget(),
            rank=self.rank,
            world_size=self.world_size,
            shuffle=False,
            bucket=self.bucket,
            remainder="join",
        )
        return BatchLoader(examples, sampler, collate, num_workers=self.num_workers, pin_memory=self.pin_memory)

    def _training_sampler(self, sizes: list[Size], place: str = "") -> ResumableBatchSampler:
        """The sampler of a whole set, or of the part of a stream at `place`."""
        return ResumableBatchSampler(
            sizes,
            self._budget(),
            rank=self.rank,
            world_size=self.world_size,
            seed=f"{self.seed}/{place}" if place else self.seed,
            shuffle=self.shuffle,
            bucket=self.bucket,
            remainder="drop" if self.drop_last else "wrap",
        )

    def _budget(self) -> Budget:
        return Budget(self.batch_size, self.max_tokens_per_batch, self.layout)


def run_of(trainer: Trainer, restore: Callable[[], State | None]) -> Run:
    """What a training loader asks the run of a trainer.

    Args:
        trainer: whose settings may still change until an epoch begins.
        restore: see `Run`.
    """
    return Run(
        accumulation=lambda: trainer.accumulate_grad_batches,
        limit=lambda: trainer.num_training_batches,
        restore=restore,
        epoch=lambda: trainer.fit_loop.epoch_progress.current.processed,
        count_anew=trainer.fit_loop.epoch_loop.batch_progress.reset_on_run,
        device=trainer.strategy.root_device,
    )


def place_of(trainer: Trainer) -> dict[str, Any]:
    """What `Batching` must know of a trainer: the layout of its method, its processes, and where batches go."""
    ranks = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
    return {
        "layout": getattr(trainer.lightning_module, "resolved_layout", Layout.PADDED),
        "rank": ranks["rank"],
        "world_size": ranks["num_replicas"],
        "pin_memory": trainer.strategy.root_device.type == "cuda",
    }
