"""Loaders that Lightning uses as they are: equal on all ranks, blind to the global RNG, exact after a restart.

They are iterables around a `DataLoader`, not subclasses of it: Lightning then injects no sampler of its own,
whatever `use_distributed_sampler` says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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

State = dict[str, Any]


class _Draws(Dataset[Drawn]):
    """What a list of indices draws from the examples."""

    def __init__(self, examples: Sequence[Example], collate: Collator) -> None:
        self.examples = examples
        self.collate = collate

    def __getitems__(self, indices: list[int]) -> Drawn:
        """What the collator needs for one batch."""
        return self.collate.draw(self.examples, indices)


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
        # Lightning sets the epoch of `batch_sampler.sampler`.
        self.batch_sampler = sampler
        self._loader = DataLoader(
            _Draws(examples, collate),
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


class Run:
    """What a training loader asks the run that it serves.

    Args:
        accumulation: tells the micro-batches per optimiser step; asked at the start of each epoch.
        limit: tells the most micro-batches that an epoch will take; its last window ends there.
        restore: gives a state to start from, once; asked at the start of each epoch.
        epoch: tells the epoch; only streams ask, for others Lightning sets it.
        count_anew: makes the trainer count the micro-batches of the epoch from 0; see `StreamLoader`.
        device: where ranks reduce their counts.
    """

    def __init__(
        self,
        accumulation: Callable[[], int] = lambda: 1,
        limit: Callable[[], float] = lambda: float("inf"),
        restore: Callable[[], State | None] = lambda: None,
        epoch: Callable[[], int] = lambda: 0,
        count_anew: Callable[[], None] = lambda: None,
        device: torch.device | None = None,
    ) -> None:
        self.accumulation, self.limit, self.restore = accumulation, limit, restore
        self.epoch, self.count_anew = epoch, count_anew
        self.device = device


class TrainingLoader(ABC):
    """Training batches with the true counts of their optimiser step, from any position of the epoch.

    Micro-batches are read one accumulation window ahead; each gets the counts of its window, summed over ranks.
    `__iter__` is a generator: its body runs at the first `next`, after everything was restored.

    Args:
        run: what this loader serves.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.position = 0
        """Micro-batches of the epoch that were handed out."""
        self.over = False
        """Whether the last iteration came to its end."""
        self._restored: State | None = None

    @abstractmethod
    def state_dict(self) -> State:
        """Where the epoch stands, and what the order of its batches depends on."""

    @abstractmethod
    def check(self, state: State) -> None:
        """Refuse a state of an epoch that would be batched differently now."""

    @abstractmethod
    def batches(self, position: int, state: State | None) -> Iterator[Batch]:
        """Micro-batches of the epoch from `position` on."""

    @abstractmethod
    def started(self, state: State | None) -> None:
        """Called when the second batch after a restored state is asked for."""

    def total(self) -> float:
        """Micro-batches in the epoch, as far as it is known."""
        return self.run.limit()

    def load_state_dict(self, state_dict: State) -> None:
        """Start the next iteration where the state was taken.

        Raises:
            ConfigError: the rest of the epoch cannot be found again, since it would be batched differently.
        """
        self.check(state_dict)
        self._restored = state_dict

    def __iter__(self) -> Iterator[Batch]:
        restored = self.run.restore()
        if restored is not None:
            self.load_state_dict(restored)
        state, self._restored = self._restored, None
        done = int(state["position"]) if state is not None else 0
        window = self.run.accumulation()
        # The counts of a window need all of it, also the part that was trained on before the restart.
        position = done // window * window
        self.position, self.over = done, False
        source = self.batches(position, state)
        while position < self.total():
            batches = list(islice(source, int(min(window, self.total() - position))))
            if not batches:
                break
            counts = self._count(batches)
            for batch in batches:
                position += 1
                if position > done:
                    self.position = position
                    yield batch._replace(window=counts)
                    if position == done + 1:
                        self.started(state)
        self.over = True

    def _count(self, batches: Sequence[Batch]) -> Counts:
        """What the window's micro-batches hold on all ranks."""
        local = torch.tensor([batch.counts() for batch in batches], dtype=torch.float64, device=self.run.device)
        return Counts(*all_reduce_sum(local.sum(0)).tolist())


class ResumableLoader(TrainingLoader):
    """Training batches from examples that are all at hand; see `TrainingLoader`.

    Args:
        examples: what to draw from.
        sampler: which examples go together.
        collate: makes the batch.
        run: what this loader serves.
        num_workers: see `BatchLoader`.
        pin_memory: see `BatchLoader`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        sampler: ResumableBatchSampler,
        collate: Collator,
        run: Run | None = None,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(run or Run())
        self.examples = examples
        self.batch_sampler = sampler
        self._loader = BatchLoader(examples, sampler, collate, num_workers=num_workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def total(self) -> float:
        """Micro-batches that the epoch will take."""
        return min(len(self), self.run.limit())

    def batches(self, position: int, state: State | None) -> Iterator[Batch]:
        """The rest of the epoch that Lightning has set."""
        self.batch_sampler.start = position
        return cast(Iterator[Batch], iter(self._loader))

    def started(self, state: State | None) -> None:
        """Nothing is to be done: Lightning knows the length, and so where it stands."""

    def state_dict(self) -> State:
        """The position, 0 at the end of an epoch. Not the epoch: a saved one is stale there."""
        position = self.position if self.position < self.total() else 0
        return {"position": position, "order": self.batch_sampler.fingerprint}

    def check(self, state: State) -> None:
        """Refuse a position in other batches."""
        if state["position"]:
            check_order(state, self.batch_sampler.fingerprint)


def check_order(state: State, now: str) -> None:
    """Refuses to go on in an epoch whose batches would now be others.

    Raises:
        ConfigError: the state's fingerprint is not `now`.
    """
    if state.get("order") != now:
        raise ConfigError(
            "The checkpoint lies inside an epoch, and this epoch's batches would now be others.",
            got="other data, batch settings, seed or number of processes than in the run that wrote it",
            fix="Resume with the same data settings and devices, or from a checkpoint at an epoch's end.",
        )
