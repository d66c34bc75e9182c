"""Adversarial reward: Cheng et al. 2023, "Adversarial Preference Optimization: Enhancing Your Alignment via RM-LLM
Game".

https://arxiv.org/abs/2311.08045 (equation number not checked). The reward model's turn in a game with the policy: it
has to tell reference answers from the policy's own samples, while it keeps to what people prefer. The KL divergence
between people's choices and its own is, up to a constant, the Bradley-Terry loss on their pairs; the game's pairs have
the same loss with a small weight. The data say of each pair where it comes from: `source: human`, or `source: game`
with the reference answer as the chosen response and a sample of the policy as the rejected one. The policy's turn, and
the rounds, are outside of this class.

Differs: the authors' code divides both losses by the number of all pairs of a micro-batch, so that their weights change
with its mixture; here each is a mean over its own pairs of the whole optimiser step. With several samples to one
reference answer that mean also is their 1 / S. Its variant without a sigmoid has no lower bound and is not offered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import PairwiseRewardModule
from lit_align.core.outputs import Per, Term
from lit_align.core.ranges import not_negative
from lit_align.methods.bradley_terry import bradley_terry_loss


class AdversarialReward(PairwiseRewardModule):
    """Reward model in a game with the policy (APO, adversarial).

    When: the policy has moved to answers that the reward model has never seen, and there are reference answers.

    Args:
        human_weight: weight of the mean loss of pairs that people judged.
        game_weight: weight of the mean loss of reference answers against the policy's own. Keep it small: style alone
            may tell them apart; `accuracy/human` must not fall.
        learning_rate: peak learning rate; 1e-6 in the authors' code.
    """

    reads = ("game",)
    needs_fields = frozenset({"source"})

    def __init__(
        self, *, human_weight: float = 1.0, game_weight: float = 0.1, learning_rate: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.human_weight = not_negative("human_weight", human_weight)
        self.game_weight = not_negative("game_weight", game_weight)

    def losses(self, chosen: Tensor, rejected: Tensor, game: Tensor) -> dict[str, Term]:
        """Losses [B] of the pairs, nats, each in the term of its source; `game` [B] says which are the game's."""
        values = bradley_terry_loss(chosen, rejected)
        with torch.no_grad():
            right = (chosen > rejected).double()
            self.meter.add("accuracy/human", right, ~game)
            self.meter.add("accuracy/game", right, game)
        return {
            "human": Term(self.human_weight * values * ~game, Per.HUMAN),
            "game": Term(self.game_weight * values * game, Per.GAME),
        }
