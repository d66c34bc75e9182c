"""Majorities as judges: the most frequent answer among samples, and the vote of several judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.functional.votes import majority
from lit_align.judges.answers import EXTRACTORS, Extraction, canonical
from lit_align.judges.base import TIE, Columns, CountingPairwise, CountingPointwise, Judge, Judged, Verdict
from lit_align.rollouts.engine import Prompt

NO_ANSWER = "no sample of this prompt has an answer"
NO_QUORUM = "too few judges gave a verdict"


class MajorityVote(CountingPointwise):
    """1 if the answer is the most frequent one among the samples of its prompt (TTRL, Zuo et al. 2025, 2504.16084).

    All samples of a prompt must come in one call; samples with equal prompts belong together. Of equally frequent
    answers the first counts. A sample without an answer has 0, and if all are without one there is no score.

    Args:
        extract: how to find the answer in a response; see `ExactMatch`.
        least_samples: prompts with fewer samples are not judged.
    """

    needs_all_samples = True

    def __init__(self, extract: Extraction = "auto", least_samples: int = 2) -> None:
        if extract not in EXTRACTORS:
            raise ConfigError(
                "there is no such way to find an answer", got=extract, fix=f"one of {', '.join(EXTRACTORS)}"
            )
        self.extract, self.least_samples = EXTRACTORS[extract], least_samples

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        groups: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            groups.setdefault(json.dumps(prompt, sort_keys=True), []).append(place)
        results: dict[int, Judged] = {}
        for places in groups.values():
            judged = self._judge([completions[place] for place in places])
            results.update(zip(places, judged, strict=True))
        return [results[place] for place in range(len(prompts))]

    def _judge(self, samples: Sequence[str]) -> list[Judged]:
        """The samples of one prompt."""
        if len(samples) < self.least_samples:
            return [Judged(None, f"too few samples of this prompt: {len(samples)}")] * len(samples)
        found = [self.extract(sample) for sample in samples]
        vote = majority([None if answer is None else canonical(answer) for answer in found])
        if vote.winner is None:
            return [Judged(None, NO_ANSWER)] * len(samples)
        self.totals["prompts"] += 1
        self.totals["majority_share"] += vote.share
        said = f"{vote.share:.3g} of {len(samples)} samples answered {str(vote.winner)!r:.80}"
        return [Judged(reward, said) for reward in vote.rewards]

    def facts(self) -> dict[str, Any]:
        """Over prompts, the mean share of samples that gave the most frequent answer."""
        prompts = self.totals["prompts"]
        return {"mean_majority_share": self.totals["majority_share"] / prompts if prompts else None}


class JudgeVote(CountingPairwise):
    """The majority of several judges; as many for as against is a tie.

    Args:
        judges: the voters, two or more, pairwise or pointwise.
        least_valid: how many of them must give a verdict; None: more than half.
    """

    def __init__(self, judges: list[Judge], least_valid: int | None = None) -> None:
        if len(judges) < 2:
            raise ConfigError("a vote needs two judges", got=f"judges: {len(judges)}", fix="name several")
        self.judges = judges
        self.least_valid = len(judges) // 2 + 1 if least_valid is None else least_valid

    def _compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], columns: Columns
    ) -> list[Verdict]:
        verdicts = [judge.compare(prompts, firsts, seconds, **columns) for judge in self.judges]
        return [self._vote(item) for item in zip(*verdicts, strict=True)]

    def _vote(self, verdicts: Sequence[Verdict]) -> Verdict:
        chances = [verdict.probability for verdict in verdicts if verdict.probability is not None]
        if len(chances) < self.least_valid:
            return Verdict(None, f"{NO_QUORUM}: {len(chances)} of {len(verdicts)}")
        wins, losses = sum(chance > TIE for chance in chances), sum(chance < TIE for chance in chances)
        said = f"{wins} for the first, {losses} for the second, {len(chances) - wins - losses} undecided"
        return Verdict(TIE if wins == losses else float(wins > losses), said)

    def parts(self) -> list[Judge]:
        """The voters."""
        return [*self.judges]
