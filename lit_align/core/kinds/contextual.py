"""Methods that learn to answer as a teacher does that has read a context before the prompt."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from lit_align.core.batch import ContextBatch, DataKind
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms
from lit_align.core.outputs import SequenceLogps, Term


class ContextualModule(LanguageModelModule):
    """Methods whose reference reads a context that the policy does not see."""

    data_kind = DataKind.CONTEXTUAL

    @abstractmethod
    def losses(self, policy: SequenceLogps, teacher: SequenceLogps, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the completions.

        Args:
            policy: of the completions after the prompts, with gradient.
            teacher: of the same tokens under the reference, after the prompts with their contexts, without gradient.
            *args: nothing.
            **facts: what `reads` names, and the sums of `token_features`, [B] each.
        """

    def reference_logps(self, batch: ContextBatch, *, whole: bool = False) -> SequenceLogps | None:
        """Log-probabilities of the completions under the teacher; see the base class."""
        return None if self.reference is None else self.reference.logps(batch.teacher_rows, whole=whole)

    def terms(self, batch: ContextBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records their negative log-likelihoods per token on both sides."""
        policy, teacher, features = self.policy_and_reference(batch)
        self.record_tokens(batch.rows, torch.ones_like(policy.lengths, dtype=torch.bool))
        self.meter.add("nll_loss", -policy.sums.sum(), count=policy.lengths.sum())
        self.meter.add("nll_loss/teacher", -teacher.sums.sum(), count=teacher.lengths.sum())
        return as_terms(self.losses(policy, teacher, **self.facts(batch), **features))
