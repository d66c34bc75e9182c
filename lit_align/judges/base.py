"""What a judge is: something that scores responses, or says which of two is better, and admits where it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from lit_align.core.errors import DataError
from lit_align.rollouts.engine import Prompt

Columns = Mapping[str, Sequence[Any]]
"""Further columns of the data, by name, each as long as the prompts."""

TIE = 0.5
"""Probability that says that neither of two responses is better."""


class Judged(NamedTuple):
    """What a judge says of one response."""

    score: float | None
    """Higher is better; None where the judge cannot tell."""
    reason: str = ""
    """Why; of what could not be judged, a sentence that is the same for all such cases, then perhaps ": details"."""


class Verdict(NamedTuple):
    """What a judge says of two responses."""

    probability: float | None
    """That the first is better, 0.5 for a tie; None where the judge cannot tell."""
    reason: str = ""
    """As in `Judged`."""
    orders: tuple[float, float] | None = None
    """The same where the first response is shown first, and where it is shown second; None: not asked twice."""


class Counts:
    """How often a judge was asked, and what it could not judge."""

    def __init__(self) -> None:
        self.asked = 0
        self.unjudged: Counter[str] = Counter()
        """Items without a result, by the sentence before the colon of their reason."""
        self.events: Counter[str] = Counter()
        """What else happened to items, such as a text that was cut."""

    def add(self, results: Iterable[Judged] | Iterable[Verdict]) -> None:
        """Count results."""
        for result in results:
            self.asked += 1
            if result[0] is None:
                self.unjudged[result[1].partition(": ")[0]] += 1

    def to_dict(self) -> dict[str, Any]:
        """The counts, for JSON."""
        return {
            "asked": self.asked,
            "judged": self.asked - self.unjudged.total(),
            "unjudged": dict(self.unjudged),
            "events": dict(self.events),
        }


class Judge(ABC):
    """Something that says which of two responses is better. Models are loaded at first use."""

    needs_all_samples = False
    """Whether all responses to a prompt must come in one call."""

    @cached_property
    def counts(self) -> Counts:
        """What was asked of this judge since it was made, and what it could not judge."""
        return Counts()

    @abstractmethod
    def compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Say which of two responses to each prompt is better.

        Args:
            prompts: texts or conversations, N of them.
            firsts: [N] responses.
            seconds: [N] responses to compare them with.
            **columns: further columns of the data, each of N values.

        Returns:
            N verdicts, in the order of the prompts.
        """

    def parts(self) -> list[Judge]:
        """The judges that this one asks."""
        return []

    def is_divisible(self) -> bool:
        """Whether a call may be split into several without a change to any result."""
        return not self.needs_all_samples and all(part.is_divisible() for part in self.parts())

    @cached_property
    def totals(self) -> defaultdict[str, float]:
        """Sums that `facts` follow from."""
        return defaultdict(float)

    def facts(self) -> dict[str, Any]:
        """What is known of this judge's ways after it has judged, such as its position bias; for JSON."""
        return {}

    def memory(self) -> dict[str, Any]:
        """What was counted and summed so far, here and in the judges that this one asks; for JSON."""
        counts = {"asked": self.counts.asked, "unjudged": self.counts.unjudged, "events": self.counts.events}
        return {**counts, "totals": self.totals, "parts": [part.memory() for part in self.parts()]}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what another process has counted.

        Args:
            memory: of a judge with the same settings.
        """
        self.counts.asked = memory["asked"]
        self.counts.unjudged = Counter(memory["unjudged"])
        self.counts.events = Counter(memory["events"])
        self.totals.clear()
        self.totals.update(memory["totals"])
        for part, own in zip(self.parts(), memory["parts"], strict=True):
            part.recall(own)

    def release(self) -> None:
        """Give back the memory of models; they load again at the next use."""
        for part in self.parts():
            part.release()


class PointwiseJudge(Judge):
    """Scores single responses."""

    @abstractmethod
    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Sequence[Any]) -> list[Judged]:
        """Score responses.

        Args:
            prompts: texts or conversations, N of them.
            completions: [N] responses.
            **columns: further columns of the data, each of N values.

        Returns:
            N results, in the order of the prompts.
        """

    def compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Compare by scores: the higher one is better, equal ones tie. See `Judge.compare`."""
        check_lengths(prompts, {"firsts": firsts, "seconds": seconds}, columns)
        twice = {name: [*values, *values] for name, values in columns.items()}
        judged = self.score([*prompts, *prompts], [*firsts, *seconds], **twice)
        return [_by_scores(*pair) for pair in zip(judged[: len(prompts)], judged[len(prompts) :], strict=True)]


class PairwiseJudge(Judge):
    """Compares two responses without scoring either."""


class CountingPointwise(PointwiseJudge):
    """A pointwise judge that checks its input and counts what it could not judge; subclasses write `_score`."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Sequence[Any]) -> list[Judged]:
        """Score responses; see `PointwiseJudge.score`."""
        check_lengths(prompts, {"completions": completions}, columns)
        results = self._score(prompts, completions, columns) if prompts else []
        self.counts.add(results)
        return results

    @abstractmethod
    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        """Score one response at least."""


class CountingPairwise(PairwiseJudge):
    """A pairwise judge that checks its input and counts what it could not judge; subclasses write `_compare`."""

    def compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], **columns: Sequence[Any]
    ) -> list[Verdict]:
        """Compare responses; see `Judge.compare`."""
        check_lengths(prompts, {"firsts": firsts, "seconds": seconds}, columns)
        results = self._compare(prompts, firsts, seconds, columns) if prompts else []
        self.counts.add(results)
        return results

    @abstractmethod
    def _compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], columns: Columns
    ) -> list[Verdict]:
        """Compare one pair at least."""


def check_lengths(prompts: Sequence[Prompt], texts: Columns, columns: Columns) -> None:
    """Refuse columns of another length than the prompts, and responses that are no texts.

    Raises:
        DataError: naming the column.
    """
    for name, values in {**texts, **columns}.items():
        if len(values) != len(prompts):
            raise DataError(
                "a judge needs as many values in every column as there are prompts",
                field=name,
                value=f"{len(values)} values, {len(prompts)} prompts",
                fix="give one value for each prompt",
            )
    for name, values in texts.items():
        for row, value in enumerate(values, start=1):
            if not isinstance(value, str):
                fix = "give the words of the response"
                raise DataError("a response to be judged is not a text", row=row, field=name, value=value, fix=fix)


def column(columns: Columns, name: str, judge: Judge) -> Sequence[Any]:
    """A column that a judge needs.

    Raises:
        DataError: it is not there.
    """
    if name not in columns:
        raise DataError(
            f"{type(judge).__name__} needs the column '{name}'",
            value=f"columns {', '.join(columns) or '(none)'}",
            fix="name the column of the data with the judge's argument",
        )
    return columns[name]


def _by_scores(first: Judged, second: Judged) -> Verdict:
    for name, judged in (("first", first), ("second", second)):
        if judged.score is None:
            sentence, colon, details = judged.reason.partition(": ")
            return Verdict(None, f"{sentence}: {name} response{', ' if colon else ''}{details}")
    assert first.score is not None
    assert second.score is not None
    probability = float(first.score > second.score) if first.score != second.score else TIE
    return Verdict(probability, f"scores {first.score:.6g} and {second.score:.6g}")
