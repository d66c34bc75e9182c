"""Methods that learn from a chosen and a rejected response to one prompt."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, PairBatch
from lit_align.core.errors import ConfigError
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms, marked
from lit_align.core.outputs import PairLogps, PairValues, SequenceLogps, Term
from lit_align.functional.logprobs import first_sums


class PairwiseModule(LanguageModelModule):
    """Methods that learn from a chosen and a rejected response to one prompt."""

    data_kind = DataKind.PAIRS
    beta: float = 1.0
    """Scale of the implicit rewards."""
    rewards_per_token: ClassVar[bool] = False
    """Whether implicit rewards are of mean log-probabilities per token instead of their sums."""
    needs_public: ClassVar[bool] = False
    """Whether `PairLogps` also has the sums over the first tokens, up to the length of the shorter response."""

    @property
    def compares_tokens(self) -> bool:
        """Whether the reference's log-probabilities of single tokens, or whole distributions, are needed."""
        return self.needs_public or super().compares_tokens

    @abstractmethod
    def losses(self, policy: PairLogps, reference: PairLogps, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the pairs.

        Args:
            policy: log-probabilities with gradient.
            reference: the same under the reference, without gradient; zeros where the method needs no reference.
            *args: nothing.
            **facts: what `reads` names, [B] each; and `token_features`, as `PairValues`.
        """

    def nll(self, policy: PairLogps) -> tuple[Tensor, Tensor]:
        """What the metric `nll_loss` is made of: negative log-likelihoods and numbers of tokens, each [B]."""
        return -policy.chosen, policy.chosen_lengths

    def metrics(self, policy: PairLogps) -> dict[str, Tensor]:
        """Further metrics of the pairs, each [B]; what the field logs for this method in particular."""
        return {}

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Implicit rewards of chosen and rejected, each [B], for the metrics: beta times the log-ratio."""
        if self.rewards_per_token:
            policy, reference = policy.mean(), reference.mean()
        ratios = policy.logratios(reference)
        return self.beta * ratios.chosen, self.beta * ratios.rejected

    def terms(self, batch: PairBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records rewards, margins and log-probabilities."""
        logps, reference_logps, features = self.policy_and_reference(batch)
        policy, reference = self._paired(logps, batch), self._paired(reference_logps, batch)
        values = {name: PairValues(x[batch.chosen], x[batch.rejected]) for name, x in features.items()}
        terms = as_terms(self.losses(policy, reference, **self.facts(batch), **values))
        self._record(policy, reference)
        self.record_tokens(batch.rows, marked(logps.lengths, batch.chosen), marked(logps.lengths, batch.rejected))
        return terms

    def _paired(self, logps: SequenceLogps, batch: PairBatch) -> PairLogps:
        pairs = pair_up(logps, batch)
        if not self.needs_public:
            return pairs
        if logps.tokens is None:
            raise ConfigError(
                f"{type(self).__name__} needs log-probabilities of single tokens",
                got=f"reference: {type(self.reference).__name__}, which knows sums only",
                fix="use reference: auto or frozen_copy",
            )
        shorter = torch.minimum(pairs.chosen_lengths, pairs.rejected_lengths)
        public = (first_sums(logps.tokens, logps.lengths, side, shorter) for side in (batch.chosen, batch.rejected))
        return pairs._replace(chosen_public=next(public), rejected_public=next(public))

    @torch.no_grad()
    def _record(self, policy: PairLogps, reference: PairLogps) -> None:
        add = self.meter.add
        chosen, rejected = self.rewards(policy, reference)
        add("rewards/chosen", chosen)
        add("rewards/rejected", rejected)
        add("rewards/margins", chosen - rejected)
        add("rewards/accuracies", (chosen > rejected).double())
        add("logps/chosen", policy.chosen)
        add("logps/rejected", policy.rejected)
        nll, lengths = self.nll(policy)
        add("nll_loss", nll.sum(), count=lengths.sum())
        for name, values in self.metrics(policy).items():
            add(name, values)


def pair_up(logps: SequenceLogps, batch: PairBatch) -> PairLogps:
    """Arrange log-probabilities of responses [M] as pairs [B]; a response may stand in several pairs."""
    places = (batch.chosen, batch.rejected, batch.prompt, batch.target)
    chosen, rejected, prompt, target = (None if place is None else logps.sums[place] for place in places)
    lengths = [None if place is None else logps.lengths[place] for place in places]
    assert chosen is not None
    assert rejected is not None
    assert lengths[0] is not None
    assert lengths[1] is not None
    return PairLogps(
        chosen,
        rejected,
        lengths[0],
        lengths[1],
        prompt=prompt,
        prompt_lengths=lengths[2],
        target=target,
        target_lengths=lengths[3],
    )
