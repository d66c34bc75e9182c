"""Runs a function in several processes of this machine, with the environment that `torchrun` would give them.

Lightning sees processes that exist already and starts none (its own launcher would run pytest again). Forking
costs half a second where a fresh interpreter costs ten, mostly for imports.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")

_GRACE = 2.0
"""Seconds that the other ranks have to tell their side after one has failed."""


class _Outcome(NamedTuple):
    """What a rank sends back."""

    value: Any
    traceback: str | None


class RankError(AssertionError):
    """A rank raised, died or did not end in time; the message holds what each rank said."""


def launch(function: Callable[..., T], *args: Any, world: int = 2, timeout: float = 90.0, **kwargs: Any) -> list[T]:
    """Calls `function(*args, **kwargs)` in `world` processes that can form a process group.

    Args:
        function: what to run; its result has to be picklable. It reads its rank from the environment.
        args: for the function.
        world: number of processes.
        timeout: seconds for all of them together. Shortly before it, the stacks of the processes that still run
            are printed.
        kwargs: for the function.

    Returns:
        The results, by rank.

    Raises:
        RankError: a rank failed or took too long; the others have been ended.
    """
    assert not torch.distributed.is_initialized(), "a forked process must not inherit a process group"
    context = _context()
    port = _free_port()
    processes: list[BaseProcess] = []
    receivers: list[Connection] = []
    for rank in range(world):
        receiver, sender = context.Pipe(duplex=False)
        environment = _environment(rank, world, port)
        process = context.Process(target=_run, args=(sender, environment, timeout, function, args, kwargs))
        process.start()
        # Only the child may hold the sending end, so that its death reads as the end of the file.
        sender.close()
        processes.append(process)
        receivers.append(receiver)
    try:
        outcomes = _collect(receivers, timeout)
    finally:
        _end(processes)
    _raise_failures(outcomes, processes, timeout)
    return [outcome.value for outcome in outcomes if outcome is not None]


def _context() -> Any:
    """Fork, if autograd has no threads: where there are GPUs it starts some, which do not survive a fork."""
    if not torch.cuda.is_available():
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.jobs"])
    return context


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # Its presence tells Lightning that somebody else starts the processes.
        "TORCHELASTIC_RUN_ID": "tests",
        "OMP_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(
    sender: Connection,
    environment: dict[str, str],
    timeout: float,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """The life of a child."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    # By number: pytest has put something without a file descriptor in the place of sys.stderr.
    faulthandler.dump_traceback_later(0.9 * timeout, file=2)
    try:
        outcome = _Outcome(function(*args, **kwargs), None)
    except BaseException:  # a child that exits has failed as well
        outcome = _Outcome(None, traceback.format_exc())
    try:
        message = pickle.dumps(outcome)
    except Exception:
        message = pickle.dumps(_Outcome(None, f"the result cannot be sent:\n{traceback.format_exc()}"))
    try:
        # Not `send`: that would pass tensors as shared memory, which ends with this process.
        sender.send_bytes(message)
    finally:
        sender.close()
        faulthandler.cancel_dump_traceback_later()
        if torch.distributed.is_initialized():
            # After a failure of one rank the others may be gone; there is nothing to save any more.
            with contextlib.suppress(Exception):
                torch.distributed.destroy_process_group()


def _collect(receivers: list[Connection], timeout: float) -> list[_Outcome | None]:
    """What the ranks sent; None for one that did not end, and an outcome without value for one that died."""
    outcomes: list[_Outcome | None] = [None] * len(receivers)
    deadline = time.monotonic() + timeout
    open_receivers = dict(zip(receivers, range(len(receivers)), strict=True))
    while open_receivers and (left := deadline - time.monotonic()) > 0:
        for receiver in wait(list(open_receivers), left):
            rank = open_receivers.pop(receiver)  # type: ignore[call-overload]
            try:
                outcomes[rank] = pickle.loads(receiver.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                outcomes[rank] = _Outcome(None, "died without a word")
            if outcomes[rank].traceback is not None:  # type: ignore[union-attr]
                deadline = min(deadline, time.monotonic() + _GRACE)
    return outcomes


def _end(processes: list[BaseProcess]) -> None:
    deadline = time.monotonic() + _GRACE
    for process in processes:
        # A rank that has sent its result still says goodbye to its group.
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _raise_failures(outcomes: list[_Outcome | None], processes: list[BaseProcess], timeout: float) -> None:
    said = []
    for rank, (outcome, process) in enumerate(zip(outcomes, processes, strict=True)):
        if outcome is None:
            said.append(f"rank {rank} was still running when it was ended (limit {timeout:.0f} s)")
        elif outcome.traceback is not None:
            said.append(f"rank {rank} failed (exit code {process.exitcode}):\n{outcome.traceback}")
    if said:
        raise RankError("\n".join(said))
