"""Preference model: Munos et al. 2023, "Nash Learning from Human Feedback".

https://arxiv.org/abs/2312.00886 (equation number not checked); also Jiang et al. 2023, https://arxiv.org/abs/2306.02561
(PairRM), and Dong et al. 2024, https://arxiv.org/abs/2405.07863. The model reads the prompt and both responses in one
text, and says how likely the first is better. Unlike differences of scores, its preferences may go in a circle, and may
depend on what a response is compared with. Each pair is learnt in both orders; the two judgements are averaged, since
the place of a response is no merit.

Differs: RLHFlow's generative form compares the next-token probabilities of "A" and "B"; here a scalar head gives the
log-odds. A preference model is no reward: it has no score for a single response.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import ComparisonModule
from lit_align.core.ranges import share
from lit_align.functional.pairwise import logistic


def both_orders_loss(first: Tensor, second: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of the two orders of a pair.

    Args:
        first: [B] log-odds that the response that stands first is better, where that is the chosen one, with gradient.
        second: [B] the same where it is the rejected one, with gradient.
        label_smoothing: believed probability that the label is wrong, in [0, 0.5).

    Returns:
        [B] losses, nats.
    """
    return (logistic(first, label_smoothing) + logistic(-second, label_smoothing)) / 2


class PairwisePreference(ComparisonModule):
    """Preference model that reads both responses.

    When: responses are to be compared, as by a judge, and no single number per response is needed.

    Args:
        label_smoothing: share of labels believed flipped: the preferred response wins with 1 less this.
        learning_rate: peak learning rate.
    """

    def __init__(self, *, label_smoothing: float = 0.0, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)

    def losses(self, first: Tensor, second: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return both_orders_loss(first, second, self.label_smoothing)
