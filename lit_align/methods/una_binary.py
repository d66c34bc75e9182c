"""UNA, labels: Wang et al. 2024, "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward
Function".

https://arxiv.org/abs/2408.15339 (equation number not checked). The implicit reward, beta * log(policy / reference), is
the logit of a completion's being desirable; cross-entropy or squared error fits it to thumbs up and down.

Differs: the paper prints a minus before both losses, which are to be made small. Its offset of the reward,
f(x) + c, is 0, as in its experiments.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import UnpairedModule
from lit_align.core.outputs import SequenceLogps
from lit_align.core.ranges import positive
from lit_align.functional.unpaired import label_nll


def una_binary_loss(rewards: Tensor, label: Tensor, loss: Literal["bce", "mse"]) -> Tensor:
    """Distance of the implicit score, the sigmoid of the reward, from the label.

    Args:
        rewards: [B] implicit rewards, beta times the log-ratio, with gradient.
        label: [B] bool, True for desirable.
        loss: bce: cross-entropy, nats; mse: squared error.

    Returns:
        [B] losses.
    """
    return label_nll(rewards, label) if loss == "bce" else (rewards.sigmoid() - label.to(rewards)).square()


class UNABinary(UnpairedModule):
    """Unified Alignment from labels.

    When: feedback is thumbs up and down, about as many of each.

    Args:
        beta: KL strength; larger stays closer to the reference. Small for long completions, whose rewards saturate.
        loss: bce: cross-entropy; mse: squared error of the score, which forgives what is far off.
        learning_rate: peak learning rate.
    """

    def __init__(
        self, *, beta: float = 0.01, loss: Literal["bce", "mse"] = "bce", learning_rate: float = 5e-6, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.loss = loss

    def losses(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> Tensor:
        """Losses [B] of the completions."""
        return una_binary_loss(self.beta * policy.logratios(reference), label, self.loss)
