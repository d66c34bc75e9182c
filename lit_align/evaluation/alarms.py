"""Alarms of a run: what callbacks noticed, what it means and what to do, as JSON lines in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_align.evaluation.jsonl_logger import JsonlLogger

_MOST_NAMED = 3
_SHARES = {"dropped": 0.05, "truncated": 0.1, "eos_lost": 0.01, "boundary_mismatches": 0.01, "special_strings": 0.01}
"""The share of rows from which on it is an alarm."""


class Alarm(NamedTuple):
    """One thing that went wrong, or may go wrong."""

    step: int
    """Optimiser step, from 1; 0: before training."""
    name: str
    """What kind of alarm it is: a slug, such as `displacement` or `data/eos_lost`."""
    words: str
    """What was seen, with its numbers."""
    advice: str
    """What to do about it."""


@rank_zero_only  # type: ignore[untyped-decorator]
def record_alarm(loggers: Iterable[Logger], alarm: Alarm) -> None:
    """Add a line to alarms.jsonl beside every metrics.jsonl.

    `ExactResume` cuts both files back to the checkpoint from which training goes on, so a run that was killed and
    resumed has the alarms of one that was not.

    Args:
        loggers: those of the trainer; without a `JsonlLogger` among them nothing is written.
        alarm: what happened.
    """
    for logger in loggers:
        if isinstance(logger, JsonlLogger):
            logger.alarms.append(alarm._asdict())


def data_alarms(split: str, report: Mapping[str, Any]) -> list[Alarm]:
    """What a data report says that should not be passed over.

    Args:
        split: train or validation.
        report: of one split, as in data_report.json.
    """
    found = []
    dropped = {reason: _total(tally) for reason, tally in report.get("dropped", {}).items()}
    for name, share in _SHARES.items():
        of = int(report.get("read" if name == "dropped" else "kept") or 0)
        count = sum(dropped.values()) if name == "dropped" else _total(report.get(name))
        if of and count / of >= share:
            what, advice = _DATA[name]
            most = sorted(dropped, key=lambda reason: -dropped[reason])[:_MOST_NAMED]
            why = f": {'; '.join(most)}" if name == "dropped" else ""
            words = f"{count} of {of} rows of the {split} data ({100 * count / of:.1f} %) {what}{why}."
            found.append(Alarm(0, f"data/{name}", words, advice))
    return found


def _total(tally: Any) -> int:
    return int(tally.get("total", 0)) if isinstance(tally, Mapping) else 0


_DATA = {
    "dropped": (
        "are not used",
        "Look at the rows that data_report.json names, and mend them or the mapping of columns; "
        "`lit-align preview` shows how rows are read.",
    ),
    "truncated": (
        "were cut to the limits on length",
        "The model sees them without their end or beginning: raise data.max_length or data.max_prompt_length, "
        "or drop overlong rows.",
    ),
    "eos_lost": (
        "lost the end of the completion's turn",
        "Where no end is seen, none is learnt, and completions run on: raise data.max_length, or drop overlong rows.",
    ),
    "boundary_mismatches": (
        "have a prompt that alone gives other tokens than with its completion",
        "The model is asked in other tokens than it was trained on: end plain prompts without a space and begin "
        "completions with it, or set data.separator.",
    ),
    "special_strings": (
        "hold strings that are special tokens",
        "They may come from a template that was applied before: give conversations instead of rendered text, or "
        "remove the strings.",
    ),
}
"""What happened, and what to do about it."""
