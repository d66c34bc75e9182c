"""CoIN: Yan et al. 2024, "Contrastive Instruction Tuning".

https://arxiv.org/abs/2402.11138 (equation number not checked). Fine-tunes on a prompt and on its paraphrase, and draws
the model's states for the two together, away from those of the other prompts of the batch.

Differs: the authors' code takes the state of the prompt's last token (`pooling: last`); its mean over all tokens
includes padding, ours does not. Prompts that occur twice are no contrast to each other here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_align.core.kinds import ParaphrasedModule
from lit_align.core.metrics import all_reduce_sum, with_all_ranks
from lit_align.core.outputs import Per, SequenceLogps, Term
from lit_align.core.pooling import Pooling
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import value_with_gradient_of


def contrastive_loss(original: Tensor, paraphrase: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each prompt's paraphrase among all, and each paraphrase's prompt.

    Args:
        original: [N, H] vectors of the prompts, with gradient.
        paraphrase: [N, H] vectors of their paraphrases, with gradient.
        same: [N, N] bool, which prompts are equal; True on the diagonal.
        temperature: what cosines are divided by, > 0.

    Returns:
        [N] losses, nats, the mean of both directions.
    """
    first, second = (normalize(vectors.double(), dim=-1, eps=1e-8) for vectors in (original, paraphrase))
    likeness = first @ second.T / temperature
    others = likeness.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -torch.inf)
    return (others.logsumexp(0) + others.logsumexp(1)) / 2 - likeness.diagonal()


class CoIN(ParaphrasedModule):
    """Contrastive Instruction Tuning.

    When: answers should not depend on how a request is worded.

    The contrast is among the prompts of a micro-batch, over all ranks; with accumulation each has its own.

    Args:
        temperature: what cosines of states are divided by.
        contrast_cap: greatest weight of the contrast (the paper's lambda), which otherwise counts as much as the
            fine-tuning.
        pooling: mean over the prompt's tokens, or the state of the last one.
        learning_rate: peak learning rate; 1e-4 with LoRA in the paper.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.05,
        contrast_cap: float = 1000.0,
        pooling: Pooling = "mean",
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.temperature = positive("temperature", temperature)
        self.contrast_cap = positive("contrast_cap", contrast_cap)
        self.pooling = pooling

    def losses(
        self,
        original: SequenceLogps,
        paraphrase: SequenceLogps,
        original_vectors: Tensor,
        paraphrase_vectors: Tensor,
        same: Tensor,
    ) -> dict[str, Term]:
        """Losses [B], nats: of both completions, and the weighted contrast."""
        (first, own), (second, _) = (with_all_ranks(vectors) for vectors in (original_vectors, paraphrase_vectors))
        contrast = contrastive_loss(first, second, same, self.temperature)
        weight = (_generation(original, paraphrase) / contrast.mean().clamp(min=1e-12)).clamp(max=self.contrast_cap)
        self.meter.add("contrast", contrast[own])
        self.meter.add("contrast_weight", weight)
        # Own vectors are part of other ranks' losses too, whose gradient reaches them only here.
        total = contrast.sum().expand(len(original.sums)) / len(original.sums)
        contrast = weight.detach() * value_with_gradient_of(contrast[own], total)
        return {"generation": Term(-original.sums - paraphrase.sums, Per.TOKENS), "contrast": Term(contrast)}


def _generation(*sides: SequenceLogps) -> Tensor:
    """Sum of the sides' mean negative log-likelihoods per token, over all ranks; scalar, without gradient."""
    sums = torch.stack([torch.stack([-side.sums.sum(), side.lengths.sum().to(side.sums)]) for side in sides])
    totals = all_reduce_sum(sums)
    return (totals[:, 0] / totals[:, 1].clamp(min=1)).sum()
