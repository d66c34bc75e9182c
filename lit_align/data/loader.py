"""Loaders that Lightning uses as they are: equal on all ranks, blind to the global RNG, exact after a restart.

They are iterables around a `DataLoader`, not subclasses of it: Lightning then injects no sampler of its own,
whatever `use_distributed_sampler` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from lit_align.core.batch import Batch, Counts, Example
from lit_align.core.errors import ConfigError
from lit_align.core.metrics import all_reduce_sum
from lit_align.data.collate import AnyBatch, Collator, Drawn
from lit_align.data.sampler import ResumableBatchSampler


class _Draws(Dataset[Drawn]):
    """What a list of indices draws from the examples."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __getitems__(self, indices: list[int]) -> Drawn:
        """The examples of one batch, and the one that follows."""
        following = (indices[-1] + 1) % len(self.examples)
        neighbour = self.examples[following] if len(indices) == 1 else None
        return Drawn([self.examples[index] for index in indices], neighbour)


class BatchLoader:
    """Batches of one rank, each epoch from the start.

    Args:
        examples: what to draw from.
        sampler: which examples go together.
        collate: makes the batch.
        num_workers: processes that read and collate; 0 reads in this one, which is faster for tokenised text.
        pin_memory: put batches into page-locked memory.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        sampler: ResumableBatchSampler,
        collate: Collator,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.examples = examples
        self.batch_sampler = sampler
        self._loader = DataLoader(
            _Draws(examples),
            batch_sampler=sampler,
            # The fetcher hands over what `__getitems__` returned: here not a list.
            collate_fn=cast(Any, collate),
            num_workers=num_workers,
            pin_memory=pin_memory,
            # Without a generator, making an iterator draws from the global RNG.
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[AnyBatch]:
        return iter(self._loader)


class ResumableLoader(BatchLoader):
    """Training batches with the true counts of their optimiser step, from any position of the epoch.

    Micro-batches are read one accumulation window ahead; each gets the counts of its window, summed over ranks.
    The position is saved with the DataModule; it is applied at the first `next`, after everything was restored.

    Args:
        examples: see `BatchLoader`.
        sampler: see `BatchLoader`.
        collate: see `BatchLoader`.
        accumulation: tells the micro-batches per optimiser step; asked at the start of each epoch.
        limit: tells the most micro-batches that the epoch will take; a last window ends there.
        device: where ranks reduce their counts.
        num_workers: see `BatchLoader`.
        pin_memory: see `BatchLoader`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        sampler: ResumableBatchSampler,
        collate: Collator,
        *,
        accumulation: Callable[[], int] = lambda: 1,
        limit: Callable[[], float] = lambda: float("inf"),
        device: torch.device | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(examples, sampler, collate, num_workers=num_workers, pin_memory=pin_memory)
        self._accumulation = accumulation
        self._limit = limit
        self._device = device
        self._position = 0
        self._resume_at = 0

    def __iter__(self) -> Iterator[AnyBatch]:
        done, self._resume_at = self._resume_at, 0
        window, total = self._accumulation(), self._total()
        # The counts of a window need all of it, also the part that was trained on before the restart.
        position = done // window * window
        self._position = done
        self.batch_sampler.start = position
        source = super().__iter__()
        while position < total:
            batches = cast(list[Batch], list(islice(source, min(window, total - position))))
            counts = self._count(batches)
            for batch in batches:
                position += 1
                if position > done:
                    self._position = position
                    yield batch._replace(window=counts)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, and what the order of its batches depends on."""
        position = self._position if self._position < self._total() else 0
        return {"position": position, "order": self.batch_sampler.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next epoch's iteration where `state` left it.

        Raises:
            ConfigError: the rest of the epoch cannot be found again, since it would be batched differently.
        """
        if state["position"] and state["order"] != self.batch_sampler.fingerprint:
            raise ConfigError(
                "The checkpoint lies inside an epoch, and this epoch's batches would now be others.",
                got="other data, batch settings, seed or number of processes than in the run that wrote it",
                fix="Resume with the same data settings and devices, or from a checkpoint at an epoch's end.",
            )
        self._resume_at = state["position"]

    def _total(self) -> int:
        return int(min(len(self), self._limit()))

    def _count(self, batches: Sequence[Batch]) -> Counts:
        """What the window's micro-batches hold on all ranks."""
        local = torch.tensor([batch.counts() for batch in batches], dtype=torch.float64, device=self._device)
        return Counts(*all_reduce_sum(local.sum(0)).tolist())
