"""Methods that learn to answer a prompt and its paraphrase alike."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, ParaphraseBatch
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms, marked
from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import SequenceLogps, Term
from lit_align.core.pooling import Pooling
from lit_align.functional.logprobs import segment_sums


class ParaphrasedModule(LanguageModelModule):
    """Methods that compare the vectors of prompts with those of their paraphrases."""

    data_kind = DataKind.PARAPHRASED
    needs_reference = False
    pooling: Pooling = "mean"
    """How the states of a prompt's tokens become one vector."""

    @abstractmethod
    def losses(
        self,
        original: SequenceLogps,
        paraphrase: SequenceLogps,
        original_vectors: Tensor,
        paraphrase_vectors: Tensor,
        same: Tensor,
    ) -> Losses:
        """Losses [B] of the completions.

        Args:
            original: of the completions after the prompts, [B] with gradient.
            paraphrase: of the same completions after the paraphrases, [B] with gradient.
            original_vectors: [B, H] of the prompts, with gradient.
            paraphrase_vectors: [B, H] of the paraphrases, with gradient.
            same: [N, N] bool, whether two of all ranks' examples have the same prompt, in the order of `over_ranks`;
                True on the diagonal.
        """

    def terms(self, batch: ParaphraseBatch) -> dict[str, Term]:
        """Losses of the batch's completions."""
        rows = batch.rows
        values: Any = self.policy(rows, statistics=self.metrics_are_read, pooling=self.pooling)
        tokens, vectors = values
        logps = SequenceLogps(segment_sums(tokens, rows.response, len(rows.response_lengths)), rows.response_lengths)
        self.record_tokens(rows, marked(logps.lengths, batch.original))
        original = SequenceLogps(logps.sums[batch.original], logps.lengths[batch.original])
        paraphrase = SequenceLogps(logps.sums[batch.paraphrase], logps.lengths[batch.paraphrase])
        first, second = vectors[batch.original], vectors[batch.paraphrase]
        self.meter.add("nll_loss", -original.sums.sum(), count=original.lengths.sum())
        self.meter.add("nll_loss/paraphrase", -paraphrase.sums.sum(), count=paraphrase.lengths.sum())
        self.meter.add("similarity", torch.nn.functional.cosine_similarity(first, second))
        groups, _ = over_ranks(batch.group)
        same = groups[:, None] == groups[None, :]
        return as_terms(self.losses(original, paraphrase, first, second, same))
