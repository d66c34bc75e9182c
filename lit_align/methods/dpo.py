"""DPO: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model".

https://arxiv.org/abs/2305.18290, Eq. 7. A policy and its reference define a reward, r = beta * log(policy / reference);
DPO fits that reward to the preferences by logistic regression, with no reward model and no sampling.

Differs: TRL 1.16 accepts `label_smoothing` for its sigmoid loss and ignores it; here it works (see `cdpo.py`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive, share
from lit_align.functional.pairwise import logistic


def dpo_loss(policy: PairLogps, reference: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that `chosen` beats `rejected` under the implicit reward.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: KL strength, > 0, per nat.
        label_smoothing: believed share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats; log 2 where policy and reference agree.
    """
    return logistic(beta * policy.logratios(reference).margins, label_smoothing)


class DPO(PairwiseModule):
    """Direct Preference Optimization.

    When: you have pairs and a model that was fine-tuned already; the baseline of the field.

    Args:
        beta: KL strength; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
    """

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return dpo_loss(policy, reference, self.beta, self.label_smoothing)
