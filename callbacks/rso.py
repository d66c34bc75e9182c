"""RSO: pairs of answers that come about as from the optimal policy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

from lit_align.callbacks._judged import JudgedLoop, scored_groups
from lit_align.core.errors import ConfigError
from lit_align.core.ranges import positive
from lit_align.data.pairing import first_round, tournament
from lit_align.data.rejection_sampling import rejection_sample
from lit_align.judges.base import Judge, PointwiseJudge
from lit_align.loops.live import LiveRound, answers, by_prompt, further_columns
from lit_align.loops.pairs import IDENTICAL, NOT_FINITE, SHORT, TIED, TOO_FEW, UNFINISHED, UNSCORED, Answer, Chosen
from lit_align.loops.store import Row

_SURE = 1e-6
"""Probability nearer to 0 or 1 than which no judge of pairs is believed: log-odds must be finite."""


class RSO(JudgedLoop):
    """Statistical rejection sampling: answers of the first policy, accepted as the optimal one would give them.

    Liu et al., "Statistical Rejection Sampling Improves Preference Optimization" (2023),
    https://arxiv.org/abs/2309.06657, Algorithm 1. Its losses are `HingeDPO` (hinge-norm) and `DPO` (sigmoid-norm) with
    `beta: 0.05`, which is the paper's gamma and not `sampler_beta`.

    Of a judge of pairs the reward of an answer is the log-odds to beat the first answer to the same prompt, as in the
    paper; of a judge of answers it is the score.

    Differs: pairs are labelled by these rewards, and a judge of pairs is not asked again; equal answers may both be
    accepted, as often as the policy writes them, but are no pair.

    Args:
        judge: see `JudgedLoop`.
        samples: candidates of each prompt.
        accepted: of these accepted, at most.
        sampler_beta: temperature of the sampler, in units of the rewards.
        ranking: first_round: accepted answers meet two by two; tournament: then winners meet winners.
        temperature: of the candidates; 0.7 with `top_k` 40 is the paper's.
        top_k: see `RegenerationCallback`.
        rounds: one is the paper's; more draw anew, and not from the first policy.
        reference: "initial", the policy that the candidates come from.
        missing_eos_penalty: see `JudgedLoop`.
        **loop: settings of every loop, see `RegenerationCallback`.
    """

    def __init__(
        self,
        judge: Judge,
        samples: int = 64,
        accepted: int = 8,
        sampler_beta: float = 0.5,
        ranking: Literal["first_round", "tournament"] = "first_round",
        temperature: float = 0.7,
        top_k: int | None = 40,
        rounds: int = 1,
        reference: Literal["previous", "initial"] = "initial",
        missing_eos_penalty: float | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(
            judge,
            samples,
            missing_eos_penalty,
            temperature=temperature,
            top_k=top_k,
            rounds=rounds,
            reference=reference,
            **loop,
        )
        if not 2 <= accepted <= self.samples:
            got = f"accepted: {accepted}, samples: {samples}"
            raise ConfigError(
                "pairs are made of accepted candidates", got=got, fix="give 2 or more, and enough samples"
            )
        self.accepted, self.ranking = accepted, ranking
        self.sampler_beta = positive("sampler_beta", sampler_beta)

    def depends_on(self) -> Any:
        """The judge and the sampler."""
        return super().depends_on() | {"sampler": [self.accepted, self.sampler_beta, self.ranking]}

    def make(self, round: LiveRound) -> list[Row]:
        """Candidates, their rewards, those that the sampler accepts, and pairs of these."""
        prompts = round.prompts()
        candidates = round.candidates(prompts, self.samples)
        pointwise = isinstance(self.judge, PointwiseJudge)
        scores = (self.judged if pointwise else self._against_the_first)(round, prompts, candidates)
        groups = scored_groups(prompts, answers(candidates, scores))
        accepted = by_prompt(
            round.step("accepted", lambda: [row for group in groups for row in self._accept(round, *group)])
        )
        meet = {"first_round": first_round, "tournament": tournament}[self.ranking]

        def pairs() -> list[Row]:
            rows = []
            for prompt, group in groups:
                rewards = [answer.score or 0.0 for answer in group]
                for better, worse in meet(rewards, [row["sample"] for row in accepted[prompt["id"]]]):
                    rows += self._pair(round, prompt, Chosen(group[better], group[worse]))
            return rows

        rows = round.step("pairs", pairs)
        round.require(rows, "the judge tells no two accepted answers apart", "give a finer judge, or more samples")
        return rows

    def _accept(self, round: LiveRound, prompt: Row, group: Sequence[Answer]) -> list[Row]:
        """What the sampler accepts of the answers to one prompt, in a random order."""
        usable = []
        for answer in group:
            reason = self._against(answer)
            round.counts.update([reason] if reason else [])
            usable += [] if reason else [answer]
        draws = random.Random(round.seed_for("accepted", prompt["id"]))
        taken = rejection_sample(
            [answer.score or 0.0 for answer in usable], self.sampler_beta, self.accepted, iter(draws.random, None)
        )
        draws.shuffle(taken)
        round.counts.update([TOO_FEW] if len(taken) < 2 else [])
        return [{"id": prompt["id"], "sample": usable[place].sample} for place in taken]

    def _against(self, answer: Answer) -> str:
        """Why an answer is no candidate; empty where it is one."""
        if not answer.finished and not self.keep_unfinished:
            return UNFINISHED
        if not answer.text.strip():
            return SHORT
        if answer.score is None:
            return UNSCORED
        return "" if math.isfinite(answer.score) else NOT_FINITE

    def _pair(self, round: LiveRound, prompt: Row, pair: Chosen) -> list[Row]:
        same = pair.chosen.text.strip() == pair.rejected.text.strip()
        if same or pair.chosen.score == pair.rejected.score:
            round.counts[IDENTICAL if same else TIED] += 1
            return []
        return [round.pair(prompt, pair)]

    def _against_the_first(self, round: LiveRound, prompts: Sequence[Row], candidates: Sequence[Row]) -> list[Row]:
        """Log-odds of each candidate to beat the first one of its prompt, which has 0."""
        of = by_prompt(candidates)

        def judged(part: Sequence[Row]) -> list[Row]:
            asked = [(prompt, answer) for prompt in part for answer in of[prompt["id"]][1:]]
            verdicts = self.judge.compare(
                [prompt["prompt"] for prompt, _ in asked],
                [answer["completion"] for _, answer in asked],
                [of[prompt["id"]][0]["completion"] for prompt, _ in asked],
                **further_columns([prompt for prompt, _ in asked]),
            )
            firsts = [{"id": prompt["id"], "sample": 0, "score": 0.0, "reason": ""} for prompt in part]
            return firsts + [
                {
                    "id": answer["id"],
                    "sample": answer["sample"],
                    "score": _log_odds(said.probability),
                    "reason": said.reason,
                }
                for (_, answer), said in zip(asked, verdicts, strict=True)
            ]

        scores = round.spread("scores", prompts, judged)
        self.judge.release()
        return self.priced(candidates, scores)


def _log_odds(probability: float | None) -> float | None:
    if probability is None:
        return None
    believed = min(max(probability, _SURE), 1 - _SURE)
    return math.log(believed / (1 - believed))
