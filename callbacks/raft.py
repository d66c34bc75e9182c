"""RAFT: the policy imitates the best of its own answers, again and again."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lit_align.callbacks._judged import JudgedLoop, scored_groups
from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.judges.base import Judge
from lit_align.loops.live import LiveRound, answers
from lit_align.loops.pairs import Answer, AnswerFilter, best_answer, top_share
from lit_align.loops.replay import Reuse
from lit_align.loops.store import Row

TOO_LOW = "prompt whose best answer scores below min_score"


class RAFT(JudgedLoop):
    """Reward-ranked fine-tuning: best-of-n answers become demonstrations for `SFT`.

    Dong et al., "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment" (2023),
    https://arxiv.org/abs/2304.06767, Algorithm 1. With `reuse: all` it is rejection sampling fine-tuning as in Llama 2.
    With one sample a round teaches the policy what it does already.

    Differs: unfinished answers are left out and counted; there is no KL term in the reward, for which a judge of one's
    own can be given.

    Args:
        judge: see `JudgedLoop`.
        samples: answers to each prompt, of which the best is kept.
        keep: per_prompt: the best answer to each prompt, as in the paper; share: the best `share` of all answers
            together, from some prompts several.
        share: see `keep`.
        min_score: the best answer to a prompt is left out below it; None: never.
        reuse: answers of earlier rounds to learn from besides.
        missing_eos_penalty: see `JudgedLoop`.
        **loop: settings of every loop, see `RegenerationCallback`.
    """

    teaches: ClassVar[frozenset[DataKind]] = frozenset({DataKind.DEMONSTRATIONS})

    def __init__(
        self,
        judge: Judge,
        samples: int = 8,
        keep: Literal["per_prompt", "share"] = "per_prompt",
        share: float = 0.2,
        min_score: float | None = None,
        reuse: Reuse = "none",
        missing_eos_penalty: float | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(judge, samples, missing_eos_penalty, reuse=reuse, **loop)
        if not 0 < share <= 1:
            raise ConfigError("a share is out of range", got=f"share: {share}", fix="give one above 0 and at most 1")
        self.keep, self.share, self.min_score = keep, share, min_score

    def depends_on(self) -> Any:
        """The judge, and which answers are kept."""
        return super().depends_on() | {"keep": [self.keep, self.share, self.min_score]}

    def make(self, round: LiveRound) -> list[Row]:
        """Answers of the policy, the judge's scores, and the best answers as demonstrations."""
        prompts = round.prompts()
        candidates = round.candidates(prompts, self.samples)
        groups = scored_groups(prompts, answers(candidates, self.judged(round, prompts, candidates)))

        def best() -> list[Row]:
            usable = AnswerFilter(self.keep_unfinished)
            kept = [usable.keep(group) for _, group in groups]
            rows = [
                round.demonstration(groups[place][0], answer, score=answer.score) for place, answer in self._best(kept)
            ]
            round.counts.update(usable.counts)
            left = len({place for place, group in enumerate(kept) if group}) - len(rows)
            if self.keep == "per_prompt" and left:
                round.counts[TOO_LOW] += left
            return rows

        rows = round.step("best", best)
        round.require(rows, "no answer can be learnt from", "raise max_new_tokens, or mend the judge")
        return rows

    def _best(self, kept: list[list[Answer]]) -> list[tuple[int, Answer]]:
        """Place of the prompt and answer, of all that are kept."""
        if self.keep == "share":
            found = top_share(kept, self.share) if any(kept) else []
        else:
            found = [(place, best) for place, group in enumerate(kept) if (best := best_answer(group)) is not None]
        return [item for item in found if self.min_score is None or (item[1].score or 0) >= self.min_score]
