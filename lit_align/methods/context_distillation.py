"""Context distillation: Askell et al. 2021, "A General Language Assistant as a Laboratory for Alignment".

https://arxiv.org/abs/2112.00861 (equation number not checked). A prompt's worth in weights: the policy, which sees only
the request, is fitted to the next-token distributions of the initial model, which has read a context before it, such as
a constitution, rules, or examples of good conduct. The loss is KL(teacher with context || policy) per token of the
completion.

Differs: the paper stores the teacher's 50 likeliest tokens at each position and the mass of the rest; here the teacher
runs beside the policy and distributions are compared whole, or as in the paper with `top_k: 50`, which is a lower
bound. Completions are the data's, best sampled from the model with the context; the paper also takes other texts. A row
whose prompt with its context exceeds the limits on length is left out and counted, since a cut context teaches nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.errors import ConfigError
from lit_align.core.kinds import ContextualModule
from lit_align.core.outputs import Per, SequenceLogps, Term
from lit_align.functional.token_features import ForwardKL, TokenFeature


class ContextDistillation(ContextualModule):
    """Context distillation.

    When: a model behaves well with a long prompt before every request, and should without it.

    Args:
        top_k: compare only so many of the teacher's likeliest tokens one by one, and all others as one; None: all.
        learning_rate: peak learning rate.
    """

    def __init__(self, *, top_k: int | None = None, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if top_k is not None and top_k < 1:
            raise ConfigError("a setting is out of range", got=f"top_k: {top_k}", fix="give 1 or more, or null")
        self.top_k = top_k

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """The divergence from the teacher at each token."""
        return {"divergence": ForwardKL(self.top_k)}

    def losses(self, policy: SequenceLogps, teacher: SequenceLogps, divergence: Tensor) -> dict[str, Term]:
        """Losses [B] of the completions, nats, summed over their tokens."""
        return {"divergence": Term(divergence, Per.TOKENS)}
