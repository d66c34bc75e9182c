"""Token rewards: Yao et al. 2023, "DeepSpeed-Chat: Easy, Fast and Affordable RLHF Training of ChatGPT-like Models at
All Scales".

https://arxiv.org/abs/2308.01320 (equation number not checked; the loss is in the code). A score at every token, and a
Bradley-Terry loss at every place from the first token in which the two responses differ. The last token's score counts.

Differs, in this order trlx, DeepSpeed-Chat, token-wise safe-rlhf, and here:
- Places trained: all three go to the end of the longer response, so the shorter one is read at padding tokens; here to
  the end of the shorter one.
- Score of a response: the longer one's last place for both; its own last token; its own; its own.
- End of a response: the first padding token (an end-of-sequence token that pads is lost); the n-th (1 for OPT);
  the attention mask; lengths.
- Equal responses: skipped; a loss of log 2; an error; a loss of 0, as wherever one response begins with all of the
  other.
- Regulariser: none; none; the mean squared score at these places; the same, `l2`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import TokenRewardModule
from lit_align.core.ranges import not_negative
from lit_align.functional.rewards import mean_square
from lit_align.methods.bradley_terry import bradley_terry_loss


class TokenReward(TokenRewardModule):
    """Reward model with a score at every token.

    When: rewards are wanted before the end of a response, as for dense reinforcement learning.

    Args:
        l2: weight of the mean squared score at the places that are trained.
        learning_rate: peak learning rate.
    """

    def __init__(self, *, l2: float = 0.0, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = not_negative("l2", l2)

    def losses(self, chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats: means over the places where `mask` [B, T] is True."""
        values = bradley_terry_loss(chosen, rejected) + self.l2 * mean_square(chosen, rejected)
        return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)
