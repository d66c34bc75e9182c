"""UNA, scores: Wang et al. 2024, "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward
Function".

https://arxiv.org/abs/2408.15339 (equation number not checked). Regresses the implicit reward,
beta * log(policy / reference), onto what a reward model or a judge says: squeezed into [0, 1] by a sigmoid, or not.

Differs: the paper prints a minus before the squared error. Its reward may have an offset, f(x) + c, which it sets to 0;
that is right only where exp(reward / beta) is 1 on average over completions of the reference, so `score_center` says
which score has the reward 0; offsets that are learnt are not offered. Scores of another range are mapped to [0, 1] by
`score_range`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from lit_align.core.demand import Demand
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import ScoredModule
from lit_align.core.outputs import SequenceLogps
from lit_align.core.ranges import positive


def una_score_loss(rewards: Tensor, score: Tensor, center: float, squashed: bool) -> Tensor:
    """Squared error of the implicit reward, or of its sigmoid.

    Args:
        rewards: [B] implicit rewards, beta times the log-ratio, with gradient.
        score: [B], in [0, 1] if squashed, else rewards.
        center: the score that means a reward of 0; if squashed in (0, 1).
        squashed: compare the sigmoid of the reward.

    Returns:
        [B] losses.
    """
    if not squashed:
        return (rewards - (score - center)).square()
    return ((rewards + math.log(center / (1 - center))).sigmoid() - score).square()


class UNAScore(ScoredModule):
    """Unified Alignment from scores.

    When: each completion has a score of its own, from a reward model or a judge.

    Args:
        beta: KL strength; larger stays closer to the reference.
        loss: squashed: scores in a range, against the sigmoid of the reward; raw: rewards of any size.
        score_range: for squashed: the scores that count as 0 and as 1.
        score_center: the score of an ordinary completion of the reference, whose reward shall be 0; None: the middle of
            the range if squashed, else 0.
        learning_rate: peak learning rate; 3e-5 with LoRA in the paper.
    """

    def __init__(
        self,
        *,
        beta: float = 0.03,
        loss: Literal["squashed", "raw"] = "squashed",
        score_range: tuple[float, float] = (0.0, 1.0),
        score_center: float | None = None,
        learning_rate: float = 5e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.squashed = loss == "squashed"
        self.low, self.high = score_range
        middle = (self.low + self.high) / 2 if self.squashed else 0.0
        self.center = middle if score_center is None else score_center
        if self.squashed and not self.low < self.center < self.high:
            raise ConfigError(
                "UNA's center of scores lies outside of their range",
                got=f"score_center: {self.center}, score_range: {list(score_range)}",
                fix="give a rising range and a center inside of it",
            )

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Scores that are squeezed into [0, 1] lie in their range."""
        fix = "set model.score_range to the range of the scores, or model.loss: raw"
        return (Demand("scores", self.low, self.high, fix=fix),) if self.squashed else ()

    def losses(self, policy: SequenceLogps, reference: SequenceLogps, score: Tensor) -> Tensor:
        """Losses [B] of the completions."""
        rewards, center = self.beta * policy.logratios(reference), self.center
        if self.squashed:
            width = self.high - self.low
            score, center = (score - self.low) / width, (center - self.low) / width
        return una_score_loss(rewards, score, center, self.squashed)
