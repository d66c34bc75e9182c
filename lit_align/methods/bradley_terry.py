"""Bradley-Terry reward model: Christiano et al. 2017, "Deep Reinforcement Learning from Human Preferences".

https://arxiv.org/abs/1706.03741, Eq. 1; for language models Ouyang et al. 2022, https://arxiv.org/abs/2203.02155,
Eq. 1. A scalar head on the last token scores a response; the difference of two scores is the log-odds that the first
one is preferred.

Differs: ColossalChat offers this loss in two forms, `logsig` -log(sigmoid(d)) and `logexp` log(1 + exp(-d)), which are
one function; its logexp overflows where scores are far apart the wrong way, this one does not. `margin` is Llama 2's
(Touvron et al. 2023, https://arxiv.org/abs/2307.09288, Eq. 2) and is used where the data has one; `center` is the
regulariser of Eisenstein et al. 2023 (https://arxiv.org/abs/2312.09244), which TRL has too; `l2` is that of Safe-RLHF
and align-anything, which also shrinks the margins. With `data.balance_lengths` pairs count so that at no difference of
lengths the longer response wins more often (configs/bradley_terry_length_balanced.yaml).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import Losses, PairwiseRewardModule
from lit_align.core.outputs import Term
from lit_align.core.ranges import not_negative
from lit_align.functional.pairwise import logistic
from lit_align.functional.rewards import mean_square


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood that `chosen` is preferred.

    Args:
        chosen: [B] scores with gradient.
        rejected: [B] scores with gradient.
        margin: [B] by how much the chosen score should win, or None.

    Returns:
        [B] losses, nats.
    """
    difference = chosen - rejected
    return logistic(difference if margin is None else difference - margin)


class BradleyTerry(PairwiseRewardModule):
    """Reward model from pairs.

    When: you need a score for single answers, to rank, filter or reward them.

    Args:
        use_margin: subtract the data's `margin` from the difference of scores, where there is one.
        center: weight of the mean squared sum of a pair's scores, which fixes the free constant; TRL suggests 0.01.
        l2: weight of the mean squared score.
        learning_rate: peak learning rate.
    """

    reads = ("margin", "weight")

    def __init__(
        self,
        *,
        use_margin: bool = True,
        center: float = 0.0,
        l2: float = 0.0,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.use_margin = use_margin
        self.center = not_negative("center", center)
        self.l2 = not_negative("l2", l2)

    def losses(
        self, chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, weight: Tensor | None = None
    ) -> Losses:
        """Losses [B] of the pairs, nats, and the regularisers that are on, times what each pair counts."""
        terms = {"preference": bradley_terry_loss(chosen, rejected, margin if self.use_margin else None)}
        if self.center:
            terms["center"] = self.center * (chosen + rejected).square()
        if self.l2:
            terms["l2"] = self.l2 * mean_square(chosen, rejected)
        return {name: Term(values if weight is None else weight * values) for name, values in terms.items()}
