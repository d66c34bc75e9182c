"""What loops have in common in which the policy answers several times and a judge says how well."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lit_align.callbacks.regeneration import RegenerationCallback
from lit_align.core.ranges import not_negative, positive
from lit_align.judges.base import Judge
from lit_align.loops.judging import check_by_prompt, described, judged
from lit_align.loops.live import LiveRound, by_prompt
from lit_align.loops.store import Row


class JudgedLoop(RegenerationCallback, ABC):
    """A loop that learns from the policy's own answers, by what a judge thinks of them.

    Args:
        judge: of answers, or of two of them; see `loops.judging.judged`.
        samples: answers to each prompt.
        missing_eos_penalty: what an answer that did not come to its end is worth less, in units of the judge's scores;
            None: such answers are left out.
        **loop: settings of every loop, see `RegenerationCallback`.
    """

    keep_judge = False
    """Whether the judge's model stays in memory while the policy is trained."""

    def __init__(self, judge: Judge, samples: int = 8, missing_eos_penalty: float | None = None, **loop: Any) -> None:
        super().__init__(**loop)
        self.judge = check_by_prompt(judge)
        self.samples = int(positive("samples", samples))
        self.missing_eos_penalty = missing_eos_penalty
        if missing_eos_penalty is not None:
            not_negative("missing_eos_penalty", missing_eos_penalty)
        self._judge_is = described(judge)

    @property
    def keep_unfinished(self) -> bool:
        """Whether an answer may be learnt from that did not come to its end."""
        return self.missing_eos_penalty is not None

    def depends_on(self) -> Any:
        """The judge and what is asked of it."""
        return {"judge": self._judge_is, "samples": self.samples, "missing_eos_penalty": self.missing_eos_penalty}

    def judged(
        self, round: LiveRound, prompts: Sequence[Row], candidates: Sequence[Row], *, suffix: str = ""
    ) -> list[Row]:
        """What the judge gives each candidate, less the price of those that did not come to their end."""
        scores = judged(round, prompts, candidates, self.judge, suffix=suffix)
        if not self.keep_judge:
            self.judge.release()
        return self.priced(candidates, scores)

    def priced(self, candidates: Sequence[Row], scores: list[Row]) -> list[Row]:
        """Scores less the price of candidates that did not come to their end."""
        price = self.missing_eos_penalty or 0.0
        cut = {(row["id"], row["sample"]) for row in candidates if not row["finished"]} if price else set()
        return [
            row | {"score": row["score"] - price}
            if row["score"] is not None and (row["id"], row["sample"]) in cut
            else row
            for row in scores
        ]


class Draw(NamedTuple):
    """Answers of one kind."""

    name: str
    """Of the step, and of the column `drawn` of the candidates."""
    prompts: Sequence[Row]
    samples: int
    more: Mapping[str, Any] = MappingProxyType({})
    """Further arguments of `LiveRound.candidates`."""


def drawn(round: LiveRound, prompts: Sequence[Row], draws: Sequence[Draw]) -> list[Row]:
    """Candidates of several kinds, with samples of their own: the step `candidates`, after one for each kind.

    Args:
        round: which these steps belong to.
        prompts: all of them.
        draws: what is drawn for which of them.
    """
    every: dict[str, list[Row]] = {prompt["id"]: [] for prompt in prompts}
    for name, asked, samples, more in draws:
        for row in round.candidates(asked, samples, name=name, **more):
            own = every[row["id"]]
            own.append(row | {"sample": len(own), "drawn": name})
    return round.step("candidates", lambda: [row for rows in every.values() for row in rows])


def scored_groups(prompts: Sequence[Row], found: Sequence[Row]) -> list[tuple[Row, list[Any]]]:
    """Each prompt with what was found for it.

    Args:
        prompts: rows with `id`.
        found: of `loops.live.answers`.
    """
    of = by_prompt(found)
    return [(prompt, [row["answer"] for row in of[prompt["id"]]]) for prompt in prompts]
