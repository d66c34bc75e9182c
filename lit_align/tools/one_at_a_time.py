"""One command in a folder at a time, also where a killed one has left a process behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """Wait until no other command, and no training that a killed one has left behind, works in a folder.

    Yields:
        Descriptor of the lock, which training processes inherit: so they hold it as long as they live.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode().strip()
            print(f"waiting until nobody else works in {out} (the last training there is process {pid})", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
