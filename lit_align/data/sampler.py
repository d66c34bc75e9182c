"""A batch sampler whose order follows from (seed, epoch), that starts anywhere and feeds all ranks alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch.utils.data import Sampler

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.batching import Budget, Plan, Remainder, Size, plan_batches, split_to


class ResumableBatchSampler(Sampler[list[int]]):
    """Yields the batches of one rank.

    Every epoch has the same number of batches, the same on all ranks, and takes every example once; where the
    examples do not go round, `remainder` says what happens, and `left_out` and `repeated` say to how many.
    The epoch comes from Lightning (`set_epoch`), never from a checkpoint: a saved one is stale at an epoch's end.

    Args:
        sizes: of the examples.
        budget: limit on rows or tokens of a batch.
        rank: of this process among those that read different data.
        world_size: number of such processes.
        seed: of the order; together with the epoch it fixes everything.
        shuffle: take a new random order every epoch.
        bucket: batch examples of similar lengths.
        remainder: what to do with examples too few to go round: "wrap" repeats, "drop" leaves out, "join" makes
            some batches larger by one (for evaluation, where each example counts once).

    Raises:
        DataError: fewer examples than ranks in evaluation.
        ConfigError: an example that alone is over the limit on tokens.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        budget: Budget,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | str = 0,
        shuffle: bool = True,
        bucket: bool = True,
        remainder: Remainder = "wrap",
    ) -> None:
        self.sizes = sizes
        self.budget = budget
        self.rank, self.world_size = rank, world_size
        self.seed = seed
        self.shuffle, self.bucket, self.remainder = shuffle, bucket, remainder
        self.epoch = 0
        self.start = 0
        """Batches of this rank to skip at the next iteration."""
        # Lightning sets the epoch of `batch_sampler.sampler`, not of the batch sampler itself.
        self.sampler = self
        self._check()
        self._first = self._plan(0)
        self._groups = self._number_of_groups()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per rank and epoch."""
        return self._groups

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        yield from self.batches(self.epoch)[self.rank :: self.world_size][start:]

    def batches(self, epoch: int) -> Plan:
        """The epoch's batches of all ranks, in order."""
        plan = self._plan(epoch) if epoch and self.shuffle else self._first
        if len(plan) != len(self) * self.world_size:
            grown = split_to(plan, len(self) * self.world_size) if len(plan) < len(self) * self.world_size else None
            # Packing by tokens came out longer than in the first epoch: use that one's batches in a new order.
            plan = grown if grown is not None else self._first_grown()
        return self._shuffled(plan, epoch) if self.shuffle else plan

    @cached_property
    def left_out(self) -> int:
        """Examples that an epoch does not reach."""
        return len(self.sizes) - len({index for batch in self.batches(0) for index in batch})

    @cached_property
    def repeated(self) -> int:
        """Examples that an epoch shows twice."""
        return sum(map(len, self.batches(0))) - (len(self.sizes) - self.left_out)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that moves an example to another batch."""
        settings = (self.budget, self.world_size, self.seed, self.shuffle, self.bucket, self.remainder)
        digest = hashlib.sha256(repr(settings).encode())
        digest.update(repr([tuple(size) for size in self.sizes]).encode())
        return digest.hexdigest()[:16]

    def _check(self) -> None:
        if self.remainder == "join" and 0 < len(self.sizes) < self.world_size:
            raise DataError(
                "There are fewer rows than processes to evaluate them.",
                value=f"{len(self.sizes)} rows for {self.world_size} processes",
                fix="Use more held-out rows (data.val_split) or fewer trainer.devices.",
            )
        if self.budget.tokens is None:
            return
        costs = [self.budget.cost([size]) for size in self.sizes]
        worst = max(costs, default=0)
        if worst > self.budget.tokens:
            over = sum(cost > self.budget.tokens for cost in costs)
            raise ConfigError(
                "Some examples alone are over max_tokens_per_batch.",
                got=f"{over} of {len(costs)} examples, the longest takes {worst} of {self.budget.tokens} tokens",
                fix=f"Set data.max_tokens_per_batch to {worst} or more, or lower data.max_length.",
            )

    def _plan(self, epoch: int) -> Plan:
        order: list[int] = list(range(len(self.sizes)))
        if self.shuffle:
            order = torch.randperm(len(order), generator=self._generator(epoch, 0)).tolist()
        return plan_batches(
            order,
            self.sizes,
            self.budget,
            world_size=self.world_size,
            bucket=self.bucket,
            remainder=self.remainder,
        )

    def _number_of_groups(self) -> int:
        """Batches per rank. Packing by tokens varies by epoch: some room, so that later epochs fit as well."""
        groups = len(self._first) // self.world_size
        if self.budget.tokens is None or not self.shuffle:
            return groups
        # Of the first epoch's examples, which may leave some out: its batches are split where there are too few.
        return min(groups + 1 + groups // 100, sum(map(len, self._first)) // self.world_size)

    def _first_grown(self) -> Plan:
        grown = split_to(self._first, len(self) * self.world_size)
        assert grown is not None, "the number of batches was bounded by the number of examples"
        return grown

    def _shuffled(self, plan: Plan, epoch: int) -> Plan:
        """The same groups of batches in random order; within a group ranks keep similar lengths."""
        groups = [plan[i : i + self.world_size] for i in range(0, len(plan), self.world_size)]
        order = torch.randperm(len(groups), generator=self._generator(epoch, 1)).tolist()
        return [batch for number in order for batch in groups[number]]

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        key = f"{self.seed}/{epoch}/{stream}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
