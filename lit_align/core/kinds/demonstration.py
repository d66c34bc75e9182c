"""Methods that imitate texts."""

from __future__ import annotations

from abc import abstractmethod

import torch

from lit_align.core.batch import DataKind, DemonstrationBatch
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms
from lit_align.core.outputs import SequenceLogps, Term


class DemonstrationModule(LanguageModelModule):
    """Methods that imitate texts."""

    data_kind = DataKind.DEMONSTRATIONS
    needs_reference = False

    @abstractmethod
    def losses(self, policy: SequenceLogps) -> Losses:
        """Losses [B] of the texts; `policy` carries gradient."""

    def terms(self, batch: DemonstrationBatch) -> dict[str, Term]:
        """Losses of the batch's texts."""
        policy = self.policy_logps(batch.rows)
        self.record_tokens(batch.rows, torch.ones_like(policy.lengths, dtype=torch.bool))
        self.meter.add("nll_loss", -policy.sums.sum(), count=policy.lengths.sum())
        return as_terms(self.losses(policy))
