"""BCO: Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment".

https://arxiv.org/abs/2404.04656 (equation number not checked). Trains a classifier of desirable against undesirable
completions whose logit is the implicit reward minus a shift. Its cross-entropy bounds DPO's loss from above, and the
bound is tight where the shift is the mean reward, which is therefore kept as a running mean.

Differs: the shift is the mean over all completions ever seen, of all ranks, updated before it is used, as in TRL's
`BCOTrainer` (up to 1.9); the paper averages the means of the two classes, which is the same where they are equally
large. TRL 1.16's `bco_pair` has no shift. The weights of the paper's underlying distribution matching, which need
embeddings of the prompts, are not here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_align.core.kinds import UnpairedModule
from lit_align.core.outputs import SequenceLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.core.running import RunningMean
from lit_align.functional.unpaired import label_nll


def bco_loss(rewards: Tensor, label: Tensor, shift: Tensor) -> Tensor:
    """Cross-entropy of the labels under the shifted rewards.

    Args:
        rewards: [B] implicit rewards, beta times the log-ratio, with gradient.
        label: [B] bool, True for desirable.
        shift: scalar, the reward of an indifferent completion, without gradient.

    Returns:
        [B] losses, nats.
    """
    return label_nll(rewards - shift, label)


class BCO(UnpairedModule):
    """Binary Classifier Optimization.

    When: feedback is thumbs up and down, and DPO's objective is wanted all the same.

    The shift couples a micro-batch, over all ranks, with those before it; with accumulation it moves within a step. It
    is part of checkpoints, and validation leaves it as it is.

    Args:
        beta: KL strength; larger stays closer to the reference.
        desirable_weight: weight of desirable completions.
        undesirable_weight: weight of undesirable completions.
    """

    def __init__(
        self, *, beta: float = 0.01, desirable_weight: float = 1.0, undesirable_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.weights = [
            not_negative("undesirable_weight", undesirable_weight),
            not_negative("desirable_weight", desirable_weight),
        ]
        self.shift = RunningMean()

    def losses(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> Tensor:
        """Losses [B] of the completions, nats; in training the shift takes in their rewards first."""
        rewards = self.beta * policy.logratios(reference)
        shift = self.shift.update(rewards) if self.training else self.shift.mean
        self.meter.add("bco/shift", shift)
        undesirable, desirable = self.weights
        return torch.where(label, desirable, undesirable) * bco_loss(rewards, label, shift)
