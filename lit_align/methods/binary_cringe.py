"""CRINGE: Adolphs et al. 2022, "The CRINGE Loss: Learning what language not to model".

https://arxiv.org/abs/2211.05826 (equation number not checked). Good completions are imitated. In bad ones every token
is contrasted with a likely other one, drawn from the top of the model's own distribution, which is pushed above it.

Differs: the sum of both losses is divided by all scored tokens, good and bad together, as in ParlAI's code, unless
`reduction` says otherwise. The gradient passes through the drawn token's logit, as there, unless `detach` is set.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import UnpairedModule
from lit_align.core.outputs import Per, SequenceLogps, Term
from lit_align.core.ranges import not_negative
from lit_align.functional.token_features import Contrast, TokenFeature


def binary_cringe_loss(policy: SequenceLogps, contrast: Tensor, label: Tensor, alpha: float) -> Tensor:
    """Negative log-likelihood of desirable completions, contrast of undesirable ones.

    Args:
        policy: summed log-probabilities [B], nats, with gradient.
        contrast: [B] sums of the contrast over each completion's tokens, nats, with gradient.
        label: [B] bool, True for desirable.
        alpha: weight of the contrast.

    Returns:
        [B] losses, nats, not yet divided by a number of tokens.
    """
    return torch.where(label, -policy.sums, alpha * contrast)


class BinaryCringe(UnpairedModule):
    """CRINGE from labels.

    When: there are texts to imitate and texts to avoid, and no memory for a reference.

    Args:
        alpha: weight of the undesirable completions.
        k: likeliest other tokens that the contrasting token is drawn from; 1 takes the likeliest. Held-out
            data get the mean over these draws, so that their loss does not depend on chance.
        detach: pass no gradient through the contrasting token's logit.
        reduction: batch_tokens: mean over all tokens of the step, as in ParlAI; token_mean: mean over completions of
            their means per token; sum: mean over completions of their sums.
        learning_rate: peak learning rate.
    """

    needs_reference = False
    needs_both_labels = False

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        k: int = 1,
        detach: bool = False,
        reduction: Literal["batch_tokens", "token_mean", "sum"] = "batch_tokens",
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.alpha = not_negative("alpha", alpha)
        if k < 1:
            raise ConfigError("CRINGE contrasts with no token", got=f"k: {k}", fix="give a number of 1 or more")
        self.k, self.detach_other = k, detach
        self.reduction = reduction

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """The contrast at each token."""
        return {"contrast": Contrast(self.k, detach=self.detach_other, mean=not self.training)}

    def losses(
        self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor, contrast: Tensor
    ) -> dict[str, Term]:
        """Losses [B] of the completions, nats."""
        losses = binary_cringe_loss(policy, contrast, label, self.alpha)
        if self.reduction == "token_mean":
            losses = losses / policy.lengths.clamp(min=1)
        return {"cringe": Term(losses, Per.TOKENS if self.reduction == "batch_tokens" else Per.EXAMPLES)}
