"""Pairwise CRINGE: Xu et al. 2023, "Some things are more CRINGE than others: Iterative Preference Optimization with the
Pairwise Cringe Loss".

https://arxiv.org/abs/2312.16682 (equation number not checked), on the token loss of Adolphs et al. 2022, "The CRINGE
Loss", https://arxiv.org/abs/2211.05826. The chosen response is imitated; each token of the rejected one is contrasted
with a token that the model itself finds likely there, so that probability goes where the model would have put it. A
gate, the sigmoid of how far the pair's margin is from b, switches a pair off once it is told apart.

Differs: no code was released, and b, tau, alpha, k and the reduction could not be checked: the defaults are ours. The
paper's product of gate and loss is taken literally, so that a gradient also flows through the gate, and raises the
margin; `detach_gate` stops it. Its rounds of sampling and ranking are left to the data.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, PairValues
from lit_align.core.ranges import finite, not_negative, positive
from lit_align.functional.token_features import Contrast, TokenFeature

Reduction = Literal["sum", "token_mean", "pair_tokens"]


def cringe_loss(policy: PairLogps, contrast: Tensor, alpha: float, reduction: Reduction) -> Tensor:
    """Cross entropy of the chosen response, and contrast of the rejected one.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        contrast: [B], nats, summed over the rejected response's tokens, with gradient.
        alpha: weight of the contrast, >= 0.
        reduction: sum: over tokens; token_mean: each side divided by its own length; pair_tokens: both by the number
            of tokens of the pair.

    Returns:
        [B] losses, nats, or nats per token.
    """
    if reduction == "token_mean":
        return -policy.mean().chosen + alpha * contrast / policy.rejected_lengths.clamp(min=1)
    total = -policy.chosen + alpha * contrast
    if reduction == "sum":
        return total
    return total / (policy.chosen_lengths + policy.rejected_lengths).clamp(min=1)


def gate(policy: PairLogps, b: float, tau: float, detach: bool = False) -> Tensor:
    """How much a pair counts: near 1 below a margin of b, near 0 above it.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        b: margin at which a pair counts half, nats.
        tau: width of the transition, > 0, nats.
        detach: pass no gradient.

    Returns:
        [B], in [0, 1].
    """
    margins = policy.margins.detach() if detach else policy.margins
    return torch.sigmoid((b - margins) / tau)


class PairwiseCringe(PairwiseModule):
    """Pairwise CRINGE.

    When: rejected responses have bad tokens rather than bad wholes, and memory for a reference is short.

    Args:
        b: margin of log-probabilities at which a pair counts half, nats of whole responses (default ours).
        tau: width of the gate's transition, nats (default ours).
        alpha: weight of the contrast on rejected tokens (default ours).
        k: the contrasted token is drawn among the k likeliest others; 1 takes the likeliest (default ours).
            Held-out data get the mean over these draws, so that their loss does not depend on chance.
        reduction: sum: over tokens; token_mean: each side divided by its own length; pair_tokens: both by the number
            of tokens of the pair.
        detach_gate: pass no gradient through the gate.
        learning_rate: peak learning rate.
    """

    needs_reference = False

    def __init__(
        self,
        *,
        b: float = 1.0,
        tau: float = 10.0,
        alpha: float = 0.5,
        k: int = 5,
        reduction: Reduction = "token_mean",
        detach_gate: bool = False,
        learning_rate: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.b = finite("b", b)
        self.tau = positive("tau", tau)
        self.alpha = not_negative("alpha", alpha)
        self.k = int(positive("k", k))
        self.reduction: Reduction = reduction
        self.detach_gate = detach_gate

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """The contrast of each token with a likely other one."""
        return {"contrast": Contrast(self.k, mean=not self.training)}

    def losses(self, policy: PairLogps, reference: PairLogps, contrast: PairValues) -> Tensor:
        """Losses [B] of the pairs."""
        weight = gate(policy, self.b, self.tau, self.detach_gate)
        return weight * cringe_loss(policy, contrast.rejected, self.alpha, self.reduction)
