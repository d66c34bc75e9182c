"""PMP: Askell et al. 2021, "A General Language Assistant as a Laboratory for Alignment".

https://arxiv.org/abs/2112.00861, Sec. 4 (equation number not checked). Preference model pre-training is a stage between
language model and reward model: large, cheap, noisy preferences (votes, edits) come before few and careful ones. In its
binary form each pair becomes two, which differ in a word before a response that says good or bad of it:
`GOOD: A` above `BAD: A`, and `BAD: B` above `GOOD: B`. The model learns which word a text deserves, and compares no two
texts.

Stages: 1. this one, with `data.convert: good_bad_pairs`, and export; 2. BradleyTerry on the careful pairs, with
`model.policy` the exported folder.

Differs: the paper adds a language modelling loss on the good samples, for which a reward model has no head.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_align.core.kinds import PairwiseRewardModule
from lit_align.methods.bradley_terry import bradley_terry_loss


class PreferencePretraining(PairwiseRewardModule):
    """Preference model pre-training.

    When: careful comparisons are few, and a large number of rough ones, such as votes, is at hand to begin with.

    Args:
        learning_rate: peak learning rate.
    """

    def __init__(self, *, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def on_fit_start(self) -> None:
        """Warn where pairs of two responses are learnt from, which is another method."""
        super().on_fit_start()
        recipe = getattr(self.trainer.datamodule, "recipe", None)
        if recipe is not None and recipe.convert != "good_bad_pairs":
            rank_zero_warn(
                f"data.convert is {recipe.convert}: unless the data hold pairs of good and bad already, this is plain "
                "Bradley-Terry, and no pre-training. Set data.convert: good_bad_pairs."
            )

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats; margins mean nothing for pairs of one response with two words."""
        return bradley_terry_loss(chosen, rejected)
