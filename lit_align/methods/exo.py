"""EXO: Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment".

https://arxiv.org/abs/2402.00856, Eq. 16 (so TRL's code), the form for pairs. DPO fits the policy to the preferences by
forward KL, which spreads over all that may be right; EXO by reverse KL, which prefers to be right where it is. For a
pair it is the divergence of the policy's belief about who wins from (1 - eps, eps).

Differs: eps = 0 makes the loss infinite and is refused. TRL 1.16 takes 1e-3 (`label_smoothing`); the authors' code has
logarithms of 0 and -10, which is eps = e^-10 with log(1 - eps) rounded to 0, and differs from this loss at that eps by
less than 5e-5. The paper's form for more than two responses and their rewards is `exo_list.py`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, share
from lit_align.functional.pairwise import logistic


def exo_pair_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Reverse KL between the policy's belief about who wins a pair and that of the label.

    Args:
        margins: [B] log-odds that the chosen response wins, nats, with gradient.
        label_smoothing: share of flipped labels, in (0, 0.5).

    Returns:
        [B] losses >= 0, nats; 0 at the margin log((1 - eps) / eps).
    """
    won = margins.sigmoid() * (-logistic(margins) - math.log1p(-label_smoothing))
    return won + (-margins).sigmoid() * (-logistic(-margins) - math.log(label_smoothing))


class EXO(PairwiseModule):
    """Efficient Exact Optimization, on pairs.

    When: the policy should settle on the best kind of answer rather than cover all kinds.

    Args:
        beta: scale of the implicit rewards; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped, in (0, 0.5); says how large margins should become.
    """

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.label_smoothing = positive("label_smoothing", share("label_smoothing", label_smoothing, below=0.5))

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return exo_pair_loss(self.beta * policy.logratios(reference).margins, self.label_smoothing)
