"""The processes that make a round together, and how they wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from torch import distributed

_PATIENCE = timedelta(hours=24)
"""How long a process may generate while others wait; strategies give their own collectives half an hour."""


class Ranks:
    """The processes that make a round together; they see the same folder.

    Args:
        rank: of this process.
        size: how many there are.
        wait: returns when all have called it.
    """

    def __init__(self, rank: int = 0, size: int = 1, wait: Callable[[], None] = lambda: None) -> None:
        self.rank, self.size, self.wait = rank, size, wait

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @classmethod
    def of_processes(cls) -> Ranks:
        """Those of the process group; one, where there is none. All processes call it together.

        They wait in a group of their own, on the host: it ends with an error when a process dies, and not because
        another one takes its time.
        """
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return cls()
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size(), partial(distributed.barrier, group))
