"""What a method may ask of the whole distribution at each token, besides the log-probability of the token itself.

A feature is computed tile by tile while the logits are there (`functional/logprobs.py`), so that logits of all tokens
never exist at once. `C` tokens of a tile, `V` entries of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Distribution(NamedTuple):
    """A model's next-token distributions, kept as hidden states; without gradient."""

    hidden: Tensor
    """[N, H]."""
    logits: Callable[[Tensor], Tensor]
    """Maps [C, H] to [C, V] logits, in the precision of sums."""


class TokenFeature(ABC):
    """One number per token, from the logits."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the reference's distribution."""

    @abstractmethod
    def __call__(self, logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
        """The feature of each token.

        Args:
            logits: [C, V] of the policy, float32 or better, with gradient.
            target: [C] int64, the tokens that stand there.
            reference: [C, V] log-probabilities of the reference, without gradient; None unless `needs_reference`.

        Returns:
            [C], with gradient unless the feature says otherwise.
        """


class ForwardKL(TokenFeature):
    """KL(reference || policy) of the next token, nats, with gradient.

    Args:
        top_k: tell apart only so many of the reference's likeliest tokens, and take all others for one: a lower bound
            of the divergence. None: tell all apart.
    """

    needs_reference = True

    def __init__(self, top_k: int | None = None) -> None:
        self.top_k = top_k

    def __call__(self, logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
        """The divergence at each token, [C]."""
        assert reference is not None, "the core computes the reference's distribution for this feature"
        policy = logits.log_softmax(-1)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            best = reference.topk(self.top_k, dim=-1).indices
            reference, policy = _with_rest(reference, best), _with_rest(policy, best)
        return (reference.exp() * (reference - policy)).sum(-1)


def _with_rest(logps: Tensor, kept: Tensor) -> Tensor:
    """[C, K + 1]: log-probabilities of the kept entries [C, K], and of all others together."""
    rest = logps.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logps.gather(-1, kept), rest], -1)


class LogCollision(TokenFeature):
    """Logarithm of the probability that two draws of the next token agree, nats; without gradient."""

    def __call__(self, logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
        """Log of the sum of squared probabilities, [C]."""
        return (2 * logits.detach().log_softmax(-1)).logsumexp(-1)


class Contrast(TokenFeature):
    """Loss of a token against a likely other one, as in CRINGE: log(1 + exp(logit of the token - logit of the other)).

    The other is drawn from the softmax over the `k` greatest logits without the token's own.

    Args:
        k: number of candidates; 1 takes the likeliest other token.
        detach: pass no gradient through the other token's logit.
        mean: in place of a draw, the loss that draws have on average: for evaluation, which must not depend on chance.
    """

    def __init__(self, k: int, *, detach: bool = False, mean: bool = False) -> None:
        self.k, self.detach, self.mean = k, detach, mean

    def __call__(self, logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
        """The loss at each token, [C], nats."""
        own = logits.gather(-1, target[:, None])
        others = logits.scatter(-1, target[:, None], -torch.inf)
        best = others.topk(min(self.k, logits.shape[-1] - 1), dim=-1).values
        chances = best.detach().softmax(-1)
        other = best if self.mean else best.gather(-1, torch.multinomial(chances, 1))
        if self.detach:
            other = other.detach()
        losses = torch.nn.functional.softplus(own - other)
        return (chances * losses).sum(-1) if self.mean else losses[:, 0]
