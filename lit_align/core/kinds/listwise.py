"""Methods that learn from several responses to one prompt and their scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, ListBatch
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms, marked
from lit_align.core.outputs import ListLogps, SequenceLogps, Term
from lit_align.functional.listwise import better_than


class ListwiseModule(LanguageModelModule):
    """Methods that learn from several responses to one prompt and their scores."""

    data_kind = DataKind.RANKED
    beta: float = 1.0
    """Scale of the implicit rewards."""
    rewards_per_token: ClassVar[bool] = False
    """Whether implicit rewards are of mean log-probabilities per token instead of their sums."""

    @abstractmethod
    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the lists.

        Args:
            policy: log-probabilities with gradient, best response first; lists may differ in length, see its mask.
            reference: the same under the reference, without gradient; zeros where the method needs no reference.
            scores: [B, K] float64, falling along a list; 0 where it is shorter.
            *args: nothing.
            **facts: what `reads` names.
        """

    def rewards(self, policy: ListLogps, reference: ListLogps) -> Tensor:
        """Implicit rewards [B, K], for the metrics: beta times the log-ratio."""
        ratios = policy.logratios(reference)
        return self.beta * (ratios / policy.lengths.clamp(min=1) if self.rewards_per_token else ratios)

    def terms(self, batch: ListBatch) -> dict[str, Term]:
        """Losses of the batch's lists; records rewards, and how far they agree with the scores."""
        logps, reference_logps, _ = self.policy_and_reference(batch)
        policy, reference = list_up(logps, batch), list_up(reference_logps, batch)
        terms = as_terms(self.losses(policy, reference, batch.scores, **self.facts(batch)))
        self._record(policy, reference, batch)
        best = batch.places[:, 0]
        self.record_tokens(batch.rows, marked(logps.lengths, best), marked(logps.lengths, _worst(batch.places, batch)))
        return terms

    @torch.no_grad()
    def _record(self, policy: ListLogps, reference: ListLogps, batch: ListBatch) -> None:
        add = self.meter.add
        rewards = self.rewards(policy, reference)
        add("rewards/chosen", rewards[:, 0])
        add("rewards/rejected", _worst(rewards, batch))
        add("rewards/margins", rewards[:, 0] - _worst(rewards, batch))
        better = better_than(batch.scores, batch.mask)
        right = (rewards[:, :, None] > rewards[:, None, :]) & better
        add("rewards/accuracies", right.sum(), count=better.sum())
        others = rewards.masked_fill(~batch.mask, -torch.inf)[:, 1:]
        add("rewards/top", (rewards[:, :1] > others).all(-1).double())
        add("logps/chosen", policy.sums[:, 0])
        add("logps/rejected", _worst(policy.sums, batch))
        add("nll_loss", -policy.sums[:, 0].sum(), count=policy.lengths[:, 0].sum())


def list_up(logps: SequenceLogps, batch: ListBatch) -> ListLogps:
    """Arrange log-probabilities of responses [M] as lists [B, K], zeros where a list is shorter."""
    sums = torch.where(batch.mask, logps.sums[batch.places], 0.0)
    return ListLogps(sums, torch.where(batch.mask, logps.lengths[batch.places], 0), batch.mask)


def _worst(values: Tensor, batch: ListBatch) -> Tensor:
    """[B], the last one of each list."""
    return values.gather(1, batch.mask.sum(1, keepdim=True) - 1)[:, 0]
