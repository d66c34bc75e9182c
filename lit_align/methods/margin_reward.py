"""Margin: Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models".

https://arxiv.org/abs/2307.09288, Eq. 2. The Bradley-Terry loss with a margin that grows with how clearly annotators
preferred one response: the score of one that is significantly better must win by more.

Differs: the paper's annotators chose one of four levels. Here the data bring a number for each pair, `margin`, and
`levels` says from which on it counts as which; whole numbers 0 to 3 are the four levels themselves. The paper has two
scales, here `large` and `small`. Large margins lengthen the tails of the scores, which PPO then sees unscaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import Losses
from lit_align.core.ranges import finite
from lit_align.methods.bradley_terry import BradleyTerry

SCALES = {"large": 1.0, "small": 1 / 3}
"""Margin of a response that is better by one level."""


def margin_of(number: Tensor, levels: Sequence[float], scale: float) -> Tensor:
    """The margin that a pair's level of preference has.

    Args:
        number: [B], by how much the chosen response is better, in the data's own units.
        levels: from which number on it is slightly better, better, significantly better; less is negligibly better.
        scale: margin of one level.

    Returns:
        [B] 0, 1, 2 or 3 times the scale.
    """
    return scale * torch.stack([number >= level for level in levels]).sum(0).to(number)


class MarginReward(BradleyTerry):
    """Reward model from pairs with margins.

    When: annotators said not only which response is better but how clearly, or both have scores.

    Args:
        margins: large: 0, 1, 2, 3 by level of preference; small: a third of that; data: the data's numbers themselves.
        levels: from which number of the data on a chosen response counts as slightly better, better, significantly
            better.
        center: weight of the mean squared sum of a pair's scores, which fixes the free constant.
        l2: weight of the mean squared score.
        learning_rate: peak learning rate.
    """

    needs_fields = frozenset({"margin"})

    def __init__(
        self,
        *,
        margins: Literal["large", "small", "data"] = "large",
        levels: tuple[float, float, float] = (1.0, 2.0, 3.0),
        center: float = 0.0,
        l2: float = 0.0,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(use_margin=True, center=center, l2=l2, learning_rate=learning_rate, **kwargs)
        self.margins = margins
        self.levels = [finite("levels", level) for level in levels]
        if len(self.levels) != 3 or any(low >= high for low, high in pairwise(self.levels)):
            raise ConfigError("levels do not rise", got=f"levels: {list(levels)}", fix="give three rising numbers")

    def losses(
        self, chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, weight: Tensor | None = None
    ) -> Losses:
        """Losses [B] of the pairs, nats, and the regularisers that are on, times what each pair counts."""
        assert margin is not None, "every pair has a margin"
        if self.margins != "data":
            margin = margin_of(margin, self.levels, SCALES[self.margins])
        return super().losses(chosen, rejected, margin, weight)
