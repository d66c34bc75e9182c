"""One number for each candidate of a round, whichever kind of judge gives it, and what a judge is made of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.judges.base import Judge, PointwiseJudge, Verdict
from lit_align.loops.live import LiveRound, by_prompt
from lit_align.loops.store import Row
from lit_align.loops.weights import known_folder
from lit_align.loops.win_rates import orders, verdict_table, win_rates_of_verdicts

_CARRIED_OUT = frozenset(
    {"batch_size", "device", "at_once", "workers", "num_workers", "timeout", "retries", "wait", "key"}
)
"""Settings that say how something is carried out, and not what comes of it."""
_ADAPTER = "adapter_config.json"
NOT_COMPARED = "the judge could compare it with no other answer"


def judged(
    round: LiveRound, prompts: Sequence[Row], candidates: Sequence[Row], judge: Judge, *, suffix: str = ""
) -> list[Row]:
    """What a judge gives each candidate, as `LiveRound.scores` does; of a judge of pairs, how often a candidate wins.

    Args:
        round: which the step `scores` belongs to, and `verdicts` before it.
        prompts: rows with `id` and `prompt`.
        candidates: answers to them.
        judge: of answers, or of two of them; then every two answers to a prompt are compared, and the score is the mean
            probability to win over itself (one half) and the others.
        suffix: of the names of the steps.
    """
    if isinstance(judge, PointwiseJudge):
        return round.scores(prompts, candidates, judge, name=f"scores{suffix}")
    verdicts = by_prompt(round.verdicts(prompts, candidates, judge, name=f"verdicts{suffix}"))
    of = by_prompt(candidates)
    return round.step(f"scores{suffix}", lambda: [row for name in of for row in _rates(of[name], verdicts[name])])


def _rates(candidates: Sequence[Row], verdicts: Sequence[Row]) -> list[Row]:
    """Scores of the answers to one prompt."""
    samples = [row["sample"] for row in candidates]
    said = {(row["first"], row["second"]): row["probability"] for row in verdicts}
    asked = [Verdict(said.get((samples[first], samples[second]))) for first, second in orders(len(samples))]
    rates = win_rates_of_verdicts(verdict_table(len(samples), asked))
    return [
        {"id": row["id"], "sample": row["sample"], "score": rate, "reason": NOT_COMPARED if rate is None else ""}
        for row, rate in zip(candidates, rates, strict=True)
    ]


def check_by_prompt(judge: Judge) -> Judge:
    """Refuse a judge whose scores of one prompt's answers hang on what else it has seen.

    Raises:
        ConfigError: it is one; the data would depend on the number of processes.
    """
    if not judge.is_divisible() and not any(part.needs_all_samples for part in (judge, *judge.parts())):
        raise ConfigError(
            "the judge scores an answer by what it has seen before",
            got=type(judge).__name__,
            fix="fix what it learns on the way, such as `minimum` of LengthNormalised",
        )
    return judge


def described(thing: Any) -> Any:
    """What something is made of, as JSON values: the settings of a judge, so that another one is told from it.

    Settings such as `batch_size` and `device` are left out: on another machine the judge is the same.

    Args:
        thing: before it is used for the first time, since models that were loaded are not told apart.
    """
    if isinstance(thing, str | Path) and str(thing) and any(map(os.path.isfile, _files_of_a_model(thing))):
        # Another model may come to stand in a folder, and the same one in another.
        return {"model": known_folder(Path(thing)), **_base(Path(thing))}
    if _is_plain(thing):
        return thing
    if isinstance(thing, Mapping):
        return {str(key): described(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple | set | frozenset):
        values = [described(value) for value in thing]
        return sorted(values, key=str) if isinstance(thing, set | frozenset) else values
    if callable(thing) and hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    ours = isinstance(thing, Judge) or type(thing).__module__.partition(".")[0] == "lit_align"
    # Of what is not known, such as a client or a tokenizer, more would not be the same in another process.
    own = {name: value for name, value in getattr(thing, "__dict__", {}).items() if ours or _is_plain(value)}
    known = {name: described(value) for name, value in own.items() if name not in _CARRIED_OUT}
    return {"class": type(thing).__qualname__} | known


def _files_of_a_model(folder: str | Path) -> list[str]:
    return [os.path.join(folder, "config.json"), os.path.join(folder, _ADAPTER)]


def _base(folder: Path) -> dict[str, Any]:
    """What adapters stand on."""
    if not (folder / _ADAPTER).is_file():
        return {}
    return {"base": described(json.loads((folder / _ADAPTER).read_text("utf-8")).get("base_model_name_or_path"))}


def _is_plain(thing: Any) -> bool:
    return thing is None or isinstance(thing, bool | int | float | str)
