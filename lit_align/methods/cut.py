"""CUT: Xu et al. 2023, "Reasons to Reject? Aligning Language Models with Judgments".

https://arxiv.org/abs/2312.14591 (equation number not checked). A judgment in words says what is wrong with a
completion. Tokens that the model finds likelier with the judgment in the prompt than without are what it speaks of:
those become unlikely without it, all others likely. With the judgment the completion is right, and is imitated.

Differs: the authors' code has no weight n^gamma (`gamma: 0`) and halves the sum of both terms (`combine: mean`). It
takes the weight of a batch's first example for all, which is not copied. Positive judgments are not put into prompts.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.kinds import JudgedModule
from lit_align.core.outputs import AlignedLogps, SequenceLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.logprobs import segment_sums
from lit_align.functional.pairwise import log1mexp


def flagged(tokens: AlignedLogps, threshold: float) -> Tensor:
    """[N] bool: which tokens the judgment speaks of: `threshold` times likelier with it than without."""
    return (tokens.judged.exp() > threshold * tokens.plain.exp()).detach()


def contrast_loss(tokens: AlignedLogps, flags: Tensor, alpha: float, gamma: float) -> Tensor:
    """Likelihood of the tokens that are right, unlikelihood of those that the judgment speaks of.

    Args:
        tokens: with and without the judgment, [N], nats, with gradient.
        flags: [N] bool, what the judgment speaks of.
        alpha: weight of the unlikelihood.
        gamma: power of the probability with the judgment that weighs it besides.

    Returns:
        [N] losses, nats; without gradient through the weight.
    """
    weight = alpha * (gamma * tokens.judged.detach()).exp()
    return -torch.where(flags, weight * log1mexp(tokens.plain), tokens.plain)


class CUT(JudgedModule):
    """Contrastive Unlikelihood Training.

    When: bad answers come with an explanation of what is wrong with them.

    Args:
        threshold: how many times likelier a token must be with the judgment to be blamed (the paper's lambda).
        alpha: weight of making blamed tokens unlikely; the paper tries 0.25 to 1.
        gamma: power of the blamed token's probability that weighs it besides; the paper tries 0.25 to 2.
        combine: sum of both terms, or their mean as in the authors' code.
        learning_rate: peak learning rate; 4e-4 with LoRA in the paper.
    """

    def __init__(
        self,
        *,
        threshold: float = 1.1,
        alpha: float = 0.5,
        gamma: float = 1.0,
        combine: Literal["sum", "mean"] = "sum",
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.threshold = positive("threshold", threshold)
        self.alpha = not_negative("alpha", alpha)
        self.gamma = not_negative("gamma", gamma)
        self.share = 0.5 if combine == "mean" else 1.0

    def losses(self, plain: SequenceLogps, judged: SequenceLogps, tokens: AlignedLogps, label: Tensor) -> Tensor:
        """Losses [B] of the completions, nats per token; records the share of tokens that are blamed."""
        flags = flagged(tokens, self.threshold)
        self.meter.add("flagged", flags.double())
        contrast = segment_sums(contrast_loss(tokens, flags, self.alpha, self.gamma), tokens.example, len(label))
        return self.share * (contrast / plain.lengths.clamp(min=1) - judged.means)
