"""Online DPO whose two answers come from different samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from lit_align.callbacks._judged import Draw, JudgedLoop, drawn, scored_groups
from lit_align.core.errors import ConfigError
from lit_align.core.ranges import positive, up_to_one
from lit_align.judges.base import Judge, PointwiseJudge
from lit_align.loops.live import LiveRound, answers, by_prompt
from lit_align.loops.pairs import TIED, TOO_FEW, UNSCORED, Answer, AnswerFilter, Chosen, scored
from lit_align.loops.store import Row
from lit_align.rollouts.mixing import LogitMix

Sampler = Literal["reference", "online", "hybrid", "mix_p", "mix_r"]
_AHEAD, _BETWEEN, _REFERENCE = (1.5, -0.5), (0.5, 0.5), (0.0, 1.0)
"""Weights of the logits of policy and reference."""
_FINE = 10**6


class SampledPairs(JudgedLoop):
    """Rounds of DPO on two answers to each prompt, and who writes them.

    Shi et al., "The Crucial Role of Samplers in Online Direct Preference Optimization" (2024),
    https://arxiv.org/abs/2409.19605, the practical version of its Sec. 5 (equation number not checked). For `SoftDPO`,
    with the judge's probability that an answer is the better one as its label, as in the paper; or `DPO`, hard labels.

    Samplers: reference: both answers are the reference's, as in offline DPO (DPO-Unif). online: both are the policy's.
    hybrid: one of each. mix_p (DPO-Mix-P): for some prompts both are the policy's; for a share of `mixed_share` one is
    from policy^1.5 * reference^-0.5 and one from policy^0.5 * reference^0.5, by mixing logits token by token before
    the temperature. mix_r (DPO-Mix-R): for that share the best and the worst of `samples` answers of the policy, by the
    judge.

    Differs: identical and unfinished answers are left out and counted; with `top_p` and the like the policy decides
    which tokens may be drawn, whoever draws.

    Args:
        judge: see `JudgedLoop`.
        sampler: see above.
        mixed_share: share of prompts with answers of different samplers; 0.7 is the authors'.
        samples: answers to choose from, for mix_r.
        scale: nats of log-odds for each unit of a difference of scores, for a judge of answers.
        temperature: 0.7 is the authors'.
        reference: "initial" as in the paper.
        missing_eos_penalty: see `JudgedLoop`.
        **loop: settings of every loop, see `RegenerationCallback`.
    """

    def __init__(
        self,
        judge: Judge,
        sampler: Sampler = "mix_p",
        mixed_share: float = 0.7,
        samples: int = 8,
        scale: float = 1.0,
        temperature: float = 0.7,
        reference: Literal["previous", "initial"] = "initial",
        missing_eos_penalty: float | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(judge, samples, missing_eos_penalty, temperature=temperature, reference=reference, **loop)
        if self.samples < 2:
            raise ConfigError("a pair needs two answers", got=f"samples: {samples}", fix="give 2 or more")
        if self.engine is not None and sampler not in ("online", "mix_r"):
            got = f"sampler: {sampler}, engine: {type(self.engine).__name__}"
            fix = "leave engine out, or use sampler online or mix_r"
            raise ConfigError("another engine does not have the reference's weights", got=got, fix=fix)
        self.sampler, self.scale = sampler, positive("scale", scale)
        self.mixed_share = up_to_one("mixed_share", mixed_share)

    def depends_on(self) -> Any:
        """The judge, and who writes."""
        return super().depends_on() | {"sampler": [self.sampler, self.mixed_share, self.scale]}

    def make(self, round: LiveRound) -> list[Row]:
        """Two answers to each prompt by the samplers, and the judge's probability that the better one is better."""
        prompts = round.prompts()
        candidates = drawn(round, prompts, self._draws(round, prompts))
        scores = self.judged(round, prompts, candidates)
        groups = scored_groups(prompts, answers(candidates, scores))

        def pairs() -> list[Row]:
            usable = AnswerFilter(self.keep_unfinished)
            said = by_prompt(round.folder.rows("verdicts") if "verdicts" in round.folder.steps else [])
            rows = [
                row
                for prompt, group in groups
                for row in self._pair(round, prompt, usable.keep(group), said[prompt["id"]])
            ]
            round.counts.update(usable.counts)
            return rows

        rows = round.step("pairs", pairs)
        round.require(rows, "no two answers can be compared", "raise max_new_tokens, or mend the judge")
        return rows

    def _draws(self, round: LiveRound, prompts: Sequence[Row]) -> list[Draw]:
        """Who writes how many answers to which prompts."""
        if self.sampler == "reference":
            return [Draw("reference", prompts, 2, self._mix(*_REFERENCE))]
        if self.sampler == "online":
            return [Draw("policy", prompts, 2)]
        if self.sampler == "hybrid":
            return [Draw("policy", prompts, 1), Draw("reference", prompts, 1, self._mix(*_REFERENCE))]
        mixed = [row for row in prompts if round.seed_for("sampler", row["id"]) % _FINE < self.mixed_share * _FINE]
        chosen = {row["id"] for row in mixed}
        plain = Draw("policy", [row for row in prompts if row["id"] not in chosen], 2)
        if self.sampler == "mix_r":
            return [plain, Draw("several", mixed, self.samples)]
        return [
            plain,
            Draw("ahead", mixed, 1, self._mix(*_AHEAD)),
            Draw("between", mixed, 1, self._mix(*_BETWEEN)),
        ]

    def _mix(self, policy: float, reference: float) -> dict[str, Any]:
        """What makes the engine mix the logits of policy and reference.

        Raises:
            ConfigError: there is no reference with a model.
        """
        if self.module.reference is None:
            got = f"{type(self.module).__name__}, sampler: {self.sampler}"
            raise ConfigError("the sampler needs a reference", got=got, fix="use a method with one, or sampler: online")
        return {"mix": LogitMix.with_reference(self.module.reference, policy_weight=policy, weight=reference)}

    def _pair(self, round: LiveRound, prompt: Row, kept: Sequence[Answer], verdicts: Sequence[Row]) -> list[Row]:
        """The best answer against the worst; of two that is the better one against the other."""
        if len(kept) < 2:
            round.counts[TOO_FEW] += 1
            return []
        chosen, rejected = max(kept, key=scored), min(reversed(kept), key=scored)
        gap = scored(chosen) - scored(rejected)
        if gap == 0:
            round.counts[TIED] += 1
            return []
        label = 1 / (1 + math.exp(-self.scale * gap))
        if not isinstance(self.judge, PointwiseJudge):
            # Scores are rates against all answers; the label is of these two.
            said = next(row for row in verdicts if {row["first"], row["second"]} == {chosen.sample, rejected.sample})[
                "probability"
            ]
            if said is None:
                round.counts[UNSCORED] += 1
                return []
            label = said if chosen.sample < rejected.sample else 1 - said
        return [round.pair(prompt, Chosen(chosen, rejected), label_probability=label)]
