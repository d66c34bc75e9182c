"""A bar in the terminal while text is generated: how much, how fast, how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_align.rollouts.counts import GenerationCounts
from lit_align.rollouts.engine import Completion

Report = Callable[[Sequence[Completion]], None]
"""Told the completions of a batch as soon as they are there."""


@contextmanager
def generation_bar(
    title: str, total: int, engine: object = None, *, console: Console | None = None
) -> Iterator[Report]:
    """A bar until the block ends; nothing where standard error is no terminal.

    Args:
        title: what is generated.
        total: completions that there will be.
        engine: one that reports batch by batch, through its attribute `progress`, is connected to the bar, and what
            the block reports of its own is not needed; None: the block calls what it gets with its completions.
        console: where to draw; None: on standard error.

    Yields:
        What to call with new completions.
    """
    shown = console.is_terminal if console is not None else sys.stderr.isatty()
    counts, started = GenerationCounts(), time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    bar = Progress(
        *columns, TimeRemainingColumn(), console=console or Console(stderr=True), disable=not shown, transient=True
    )
    task = bar.add_task(title, total=total, speed="")

    def report(completions: Sequence[Completion]) -> None:
        counts.add(completions)
        counts.seconds = time.perf_counter() - started
        bar.update(task, advance=len(completions), speed=str(counts))

    reporter: Any = engine if hasattr(engine, "progress") else None
    before = reporter.progress if reporter is not None else None
    with bar:
        try:
            if reporter is not None:
                reporter.progress = report
            yield report
        finally:
            if reporter is not None:
                reporter.progress = before
