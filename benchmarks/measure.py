"""Honest timing on a busy machine: CPU time of one thread, variants in turn, medians; and peak memory of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "16000000000", "MALLOC_TOP_PAD_": "67108864"}
"""Keeps freed memory, as a caching allocator does; page faults of fresh logits would flatter variants without them."""


class Timing(NamedTuple):
    """Seconds of CPU time of one step."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f}-{self.most:.2f}]"


def single_threaded() -> None:
    """Start this script again with one thread and the allocator's settings, if it was not started so."""
    wanted = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def time_in_turn(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Run every variant once to warm up, then `repeats` times in rotating order."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(repeats + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.process_time()
            variants[name]()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {name: Timing(median(values), min(values), max(values)) for name, values in seconds.items()}


def peak_of(run: Callable[[], Any]) -> float:
    """Peak resident memory above the start, MiB, of a second run of `run` in this process."""
    run()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def in_fresh_process(script: str, *arguments: str, timeout: float = 1800) -> dict[str, Any]:
    """Run a script that prints one JSON object last; memory of one variant does not reach another."""
    environment = {k: v for k, v in os.environ.items() if k not in ALLOCATOR}
    result = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A markdown table."""
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([*lines, "", *([note, ""] if note else [])])


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))
