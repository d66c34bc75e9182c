"""K-wise: Ouyang et al. 2022, "Training language models to follow instructions with human feedback".

https://arxiv.org/abs/2203.02155, Eq. 1. All K responses to a prompt are scored once, and all pairs of them compared in
the same step. A prompt counts once however many responses it has: its pairs are divided by their number.

Differs: the paper's responses have no ties; here tied pairs are skipped and not counted. Prompts whose responses are
all tied teach nothing: they are dropped and counted when data are read, and stand in no mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import ListwiseRewardModule
from lit_align.functional.listwise import better_than, differences
from lit_align.functional.pairwise import logistic


def kwise_loss(scores: Tensor, quality: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of a list's pairs, each that the better response is preferred.

    Args:
        scores: [B, K] with gradient.
        quality: [B, K], higher is better.
        mask: [B, K] bool, where a list has a response.

    Returns:
        [B] losses, nats; 0 where no response is better than another.
    """
    better = better_than(quality, mask)
    total = torch.where(better, logistic(differences(scores)), 0.0).sum((1, 2))
    return total / better.sum((1, 2)).clamp(min=1)


class KWiseReward(ListwiseRewardModule):
    """Reward model from ranked lists.

    When: prompts have several ranked responses; as independent pairs, they would be scored and overfitted many times.

    Args:
        learning_rate: peak learning rate.
    """

    def __init__(self, *, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def losses(self, scores: Tensor, quality: Tensor, mask: Tensor) -> Tensor:
        """Losses [B] of the prompts, nats."""
        return kwise_loss(scores, quality, mask)
