"""Methods that learn from judgments in words of what is wrong with a completion."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, JudgedBatch
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms, marked
from lit_align.core.outputs import AlignedLogps, SequenceLogps, Term


class JudgedModule(LanguageModelModule):
    """Methods that compare a completion's tokens with and without a judgment in the prompt."""

    data_kind = DataKind.JUDGED
    needs_reference = False
    needs_both_labels = False

    @abstractmethod
    def losses(self, plain: SequenceLogps, judged: SequenceLogps, tokens: AlignedLogps, label: Tensor) -> Losses:
        """Losses [B] of the completions.

        Args:
            plain: of the completions after their own prompts, [B] with gradient.
            judged: of the undesirable ones after the prompts with the judgment; the same as `plain` for the others.
            tokens: the single tokens of the undesirable completions, with gradient.
            label: [B] bool, True for desirable.
        """

    def terms(self, batch: JudgedBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records log-probabilities with and without the judgment."""
        logps = self.policy_logps(batch.rows)
        self.record_tokens(
            batch.rows,
            marked(logps.lengths, batch.plain[batch.label]),
            marked(logps.lengths, batch.plain[~batch.label]),
        )
        conditioned = torch.where(batch.label, batch.plain, batch.judged)
        plain = SequenceLogps(logps.sums[batch.plain], logps.lengths[batch.plain])
        judged = SequenceLogps(logps.sums[conditioned], logps.lengths[conditioned])
        tokens = align(logps, batch)
        self.meter.add("logps/chosen", plain.sums, batch.label)
        self.meter.add("logps/rejected", plain.sums, ~batch.label)
        self.meter.add("logps/judged", judged.sums, ~batch.label)
        return as_terms(self.losses(plain, judged, tokens, batch.label))


def align(logps: SequenceLogps, batch: JudgedBatch) -> AlignedLogps:
    """The tokens of undesirable completions side by side, after the prompt with and without the judgment."""
    assert logps.tokens is not None, "the policy knows its tokens"
    starts = logps.lengths.cumsum(0) - logps.lengths
    (numbers,) = torch.nonzero(~batch.label, as_tuple=True)
    # A limit on length may have cut the two differently.
    lengths = torch.minimum(logps.lengths[batch.plain[numbers]], logps.lengths[batch.judged[numbers]])
    steps = torch.arange(int(lengths.sum()), device=lengths.device)
    steps = steps - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    plain = starts[batch.plain[numbers]].repeat_interleave(lengths) + steps
    judged = starts[batch.judged[numbers]].repeat_interleave(lengths) + steps
    return AlignedLogps(logps.tokens[plain], logps.tokens[judged], numbers.repeat_interleave(lengths))
