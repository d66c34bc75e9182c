"""LiPO: Liu et al. 2024, "LiPO: Listwise Preference Optimization through Learning-to-Rank".

https://arxiv.org/abs/2402.01878 (equation number not checked). DPO's logistic loss (Eq. 7 of
https://arxiv.org/abs/2305.18290) over all pairs of a list, weighted as in LambdaLoss: a pair counts by how much the
discounted gain would change if its responses exchanged the places at which the policy now has them.

Differs: the paper's formula is the default (`mode: paper`). The library that it names, RAX, takes logarithms of base 2,
multiplies by the length of the list and divides by the number of pairs (`mode: rax`); a list's gradient differs by a
positive factor only. Labels are mean probabilities of winning against the list's responses, itself included; the paper
has them from a ranker, here they come from the data's scores (`reward_temperature`), or are these scores themselves.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.demand import Demand
from lit_align.core.kinds import ListwiseModule
from lit_align.core.outputs import ListLogps
from lit_align.core.ranges import positive
from lit_align.functional.listwise import better_than, differences, ranks
from lit_align.functional.pairwise import logistic


def win_rates(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean probability of each response to win against a response of its list, by Bradley and Terry.

    Args:
        scores: [B, K], the data's rewards.
        mask: [B, K] bool.
        temperature: > 0, in units of the scores.

    Returns:
        [B, K], in (0, 1); half of it for a list of one.
    """
    wins = torch.sigmoid(differences(scores) / temperature) * mask[:, None, :]
    return wins.sum(-1) / mask.sum(-1, keepdim=True)


def lambda_weights(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """How much the discounted gain changes if two responses exchange their places.

    Args:
        rewards: [B, K], by which the policy orders a list; no gradient passes.
        labels: [B, K], in [0, 1].
        mask: [B, K] bool.

    Returns:
        [B, K, K], 0 or more, with natural logarithms.
    """
    discounts = 1 / torch.log1p(ranks(rewards, mask).to(rewards.dtype))
    return differences(torch.exp2(labels)).abs() * differences(discounts).abs()


def lipo_loss(rewards: Tensor, labels: Tensor, mask: Tensor, mode: Literal["paper", "rax"] = "paper") -> Tensor:
    """Weighted logistic losses of a list's pairs.

    Args:
        rewards: [B, K], implicit rewards, with gradient.
        labels: [B, K], in [0, 1]; pairs with equal ones do not count.
        mask: [B, K] bool.
        mode: paper: sum over pairs; rax: as that library has it.

    Returns:
        [B] losses; 0 for a list without a pair.
    """
    pairs = better_than(labels, mask)
    losses = lambda_weights(rewards, labels, mask) * logistic(differences(rewards))
    total = (losses * pairs).sum((-1, -2))
    if mode == "paper":
        return total
    return total * math.log(2) * mask.sum(-1) / pairs.sum((-1, -2)).clamp(min=1)


class LiPO(ListwiseModule):
    """Listwise Preference Optimization, LiPO-lambda.

    When: prompts have several scored responses, and the top of the order matters most.

    Args:
        beta: KL strength; larger stays closer to the reference.
        mode: paper: its formula; rax: that of the library, which weighs lists otherwise.
        reward_temperature: labels are win rates, by Bradley and Terry, of the data's scores divided by it; null: the
            scores are labels already, in [0, 1].
        learning_rate: peak learning rate; the paper's 2e-5 is for Adafactor.
    """

    def __init__(
        self,
        *,
        beta: float = 0.05,
        mode: Literal["paper", "rax"] = "paper",
        reward_temperature: float | None = 1.0,
        learning_rate: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.mode: Literal["paper", "rax"] = mode
        self.reward_temperature = reward_temperature
        if reward_temperature is not None:
            positive("reward_temperature", reward_temperature)

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Scores that are labels lie in [0, 1]."""
        fix = "give scores from 0 to 1, or set model.reward_temperature, which makes labels of scores of any size"
        return () if self.reward_temperature is not None else (Demand("scores", 0.0, 1.0, fix=fix),)

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> Tensor:
        """Losses [B] of the lists."""
        labels = scores
        if self.reward_temperature is not None:
            labels = win_rates(scores, policy.mask, self.reward_temperature)
        return lipo_loss(self.rewards(policy, reference), labels, policy.mask, self.mode)
