"""Several judges as one, which trusts scores less where the judges disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import not_negative
from lit_align.functional.ensembles import Combination, combined, standardised
from lit_align.judges.base import Columns, CountingPointwise, Judge, Judged, PointwiseJudge
from lit_align.judges.reward_model import check_moments
from lit_align.rollouts.engine import Prompt

MEMBER_FAILED = "a member of the ensemble gave no score"


class RewardEnsemble(CountingPointwise):
    """Scores with several judges, such as reward models from other seeds (Coste et al. 2023, arXiv 2310.02743).

    A response that one of them cannot score has no score.

    Args:
        judges: the members, two or more.
        combine: `mean`; `worst`, the least of the scores; `uncertainty`, mean - weight * variance; or `lcb`, mean -
            weight * standard deviation.
        weight: of the disagreement. 0.5 is usual to choose among samples, 0.1 as a reward to train on.
        ddof: 0 for the variance of a population, 1 for that of a sample.
        standardise: for each member, mean and standard deviation of its scores on the same other responses. Models
            have scales of their own; without this they are taken to have the same one.

    Raises:
        ConfigError: fewer than two members, or statistics for another number of members.
    """

    def __init__(
        self,
        judges: list[PointwiseJudge],
        combine: Combination = "mean",
        weight: float = 0.5,
        ddof: int = 0,
        standardise: list[tuple[float, float]] | None = None,
    ) -> None:
        if len(judges) < 2:
            raise ConfigError(
                "an ensemble needs two judges", got=f"judges: {len(judges)}", fix="name several, or use the one alone"
            )
        if standardise is not None and len(standardise) != len(judges):
            raise ConfigError(
                "an ensemble needs the mean and the standard deviation of each member's scores",
                got=f"standardise: {len(standardise)}, judges: {len(judges)}",
                fix="give one [mean, std] for each judge, in their order",
            )
        if ddof not in (0, 1):
            raise ConfigError("a variance is that of a population or of a sample", got=f"ddof: {ddof}", fix="0 or 1")
        self.judges, self.combine, self.ddof = judges, combine, ddof
        self.weight = not_negative("weight", weight)
        self.standardise = [check_moments("standardise", given) for given in standardise or ()]

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        members = [judge.score(prompts, completions, **columns) for judge in self.judges]
        results: list[Judged] = []
        for judged in zip(*members, strict=True):
            scores = [score for score, _ in judged if score is not None]
            if len(scores) < len(judged):
                number, why = next((n, one.reason) for n, one in enumerate(judged, start=1) if one.score is None)
                results.append(Judged(None, f"{MEMBER_FAILED}: judge {number}, {why}"))
            else:
                results.append(self._combined(scores))
        return results

    def _combined(self, scores: list[float]) -> Judged:
        values = torch.tensor(scores, dtype=torch.float64)[:, None]
        by = self.standardise or [None] * len(scores)
        pairs = zip(values, by, strict=True)
        scaled = torch.stack([value if own is None else standardised(value, own) for value, own in pairs])
        score = combined(scaled, self.combine, self.weight, self.ddof).item()
        return Judged(score, f"{self.combine} of {', '.join(f'{value:.6g}' for value in scaled[:, 0].tolist())}")

    def parts(self) -> list[Judge]:
        """The members."""
        return [*self.judges]
