"""Binary discrimination: Askell et al. 2021, "A General Language Assistant as a Laboratory for Alignment".

https://arxiv.org/abs/2112.00861 (equation number not checked). A classifier of single responses: the score is the
log-odds that a response is good. In the paper this does about as well as imitating the good ones, and a ranked
preference model (here BradleyTerry) much better.

Differs: the paper scores at a special token that ends the context; here, as everywhere, the last token is read, which
is the end of sequence where the data end with it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import LabelledRewardModule
from lit_align.functional.unpaired import label_nll


class BinaryPreference(LabelledRewardModule):
    """Reward model from labels.

    When: feedback is thumbs up and down on single answers, and you need a score; with pairs use BradleyTerry.

    Args:
        learning_rate: peak learning rate.
    """

    def __init__(self, *, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def losses(self, scores: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the labels, as many as there are scores, nats."""
        return label_nll(scores, label)
