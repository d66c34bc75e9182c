"""Soft-label DPO: Lee et al. 2023, "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI
Feedback".

https://arxiv.org/abs/2309.00267 (equation number not checked) has the labels: an AI labeller's probability that the
first response is the better one, averaged over both orders. The loss is their cross-entropy with DPO's log-odds, as in
Shi et al. 2024, "The Crucial Role of Samplers in Online Direct Preference Optimization",
https://arxiv.org/abs/2409.19605, where the labels are the sigmoid of a reward model's differences. A pair's gradient
vanishes once the policy holds the label with just that probability.

Differs: RLAIF trains a reward model on these labels (`soft_reward.py`); with DPO no reward model is needed. The
probability is that the response in the column `chosen` is better, whatever the column is called: it may be below 1/2,
and then the metrics' accuracy counts the other way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.rewards import soft_label_nll


def soft_dpo_loss(policy: PairLogps, reference: PairLogps, label_probability: Tensor, beta: float) -> Tensor:
    """Cross-entropy of the labels with DPO's belief about who wins.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        label_probability: [B] in [0, 1], probability that the chosen response is better.
        beta: KL strength, > 0, per nat.

    Returns:
        [B] losses, nats; log 2 where policy and reference agree.
    """
    return soft_label_nll(beta * policy.logratios(reference).margins, label_probability)


class SoftDPO(PairwiseModule):
    """DPO with soft labels.

    When: a labeller, an AI or several people, says how likely the first response is the better one.

    Args:
        beta: KL strength; larger stays closer to the reference.
    """

    reads = ("label_probability",)
    needs_fields = frozenset({"label_probability"})

    def __init__(self, *, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)

    def losses(self, policy: PairLogps, reference: PairLogps, label_probability: Tensor) -> Tensor:
        """Losses [B] of the pairs, nats."""
        return soft_dpo_loss(policy, reference, label_probability, self.beta)
