"""Methods that learn from single completions, marked desirable or not, or with a score."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, LabelBatch
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms
from lit_align.core.metrics import all_reduce_sum
from lit_align.core.outputs import SequenceLogps, Term


class UnpairedModule(LanguageModelModule):
    """Methods that learn from single completions marked desirable or undesirable."""

    data_kind = DataKind.UNPAIRED
    beta: float = 1.0
    """Scale of the implicit rewards."""

    @abstractmethod
    def losses(
        self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor, *args: Any, **facts: Any
    ) -> Losses:
        """Losses [B] of the completions.

        Args:
            policy: log-probabilities with gradient.
            reference: the same under the reference, without gradient; zeros where the method needs no reference.
            label: [B] bool, True for desirable.
            kl: scalar >= 0, nats, detached: estimate of the policy's divergence from the reference; 0 where the
                method does not ask for it (`needs_kl`).
            *args: nothing.
            **facts: what `reads` names, and the sums of `token_features`, [B] each.
        """

    def terms(self, batch: LabelBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records rewards by label and the KL estimate."""
        assert batch.label is not None, "unpaired data have labels"
        # Before the policy's pass, whose statistics this one would replace.
        kl = self.batch_kl(batch) if self.needs_kl else batch.rows.target.new_zeros((), dtype=torch.float64)
        policy, reference, features = self.policy_and_reference(batch)
        self.record_tokens(batch.rows, batch.label, ~batch.label)
        terms = as_terms(self.losses(policy, reference, batch.label, kl, **self.facts(batch), **features))
        self._record(policy, reference, batch.label, kl)
        return terms

    @torch.no_grad()
    def batch_kl(self, batch: LabelBatch) -> Tensor:
        """Mean log-ratio of mismatched completions, over all ranks, clamped at 0; scalar, nats.

        The sum and the number of completions are reduced together on every rank. A rank whose micro-batch has no
        mismatched completion scores its own and counts none: ranks with sharded weights gather them in every
        forward pass, so all of them must make as many.
        """
        assert self.reference is not None
        rows, cached = batch.kl_rows, batch.kl_reference_logps
        if rows is None:
            rows, cached = batch.rows, batch.reference_logps
        reference = self.reference.logps(rows, cached=cached)
        ratios = self.policy.sequence_logps(rows).logratios(reference)
        if batch.kl_rows is None:
            ratios = ratios[:0]
        total = all_reduce_sum(torch.stack([ratios.sum(), ratios.new_tensor(len(ratios))]))
        return (total[0] / total[1].clamp(min=1)).clamp(min=0)

    @torch.no_grad()
    def _record(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> None:
        rewards = self.beta * policy.logratios(reference)
        for name, mask in (("chosen", label), ("rejected", ~label)):
            self.meter.add(f"rewards/{name}", rewards, mask)
            self.meter.add(f"logps/{name}", policy.sums, mask)
        if self.needs_kl:
            self.meter.add("kl", kl)

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The margin between the mean rewards of the two labels, which no single completion has."""
        return {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}


class ScoredModule(LanguageModelModule):
    """Methods that learn from single completions and a number that says how good each is."""

    data_kind = DataKind.SCORED
    beta: float = 1.0
    """Scale of the implicit rewards."""

    @abstractmethod
    def losses(
        self, policy: SequenceLogps, reference: SequenceLogps, score: Tensor, *args: Any, **facts: Any
    ) -> Losses:
        """Losses [B] of the completions.

        Args:
            policy: log-probabilities with gradient.
            reference: the same under the reference, without gradient; zeros where the method needs no reference.
            score: [B] float64, what the data say.
            *args: nothing.
            **facts: what `reads` names, and the sums of `token_features`, [B] each.
        """

    def terms(self, batch: LabelBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records rewards, scores, and how far the two go together."""
        assert batch.score is not None, "scored data have scores"
        policy, reference, features = self.policy_and_reference(batch)
        self.record_tokens(batch.rows, torch.ones_like(policy.lengths, dtype=torch.bool))
        terms = as_terms(self.losses(policy, reference, batch.score, **self.facts(batch), **features))
        with torch.no_grad():
            rewards = self.beta * policy.logratios(reference)
            self.meter.add("rewards/mean", rewards)
            self.meter.add("rewards/squares", rewards.square())
            self.meter.add("scores/mean", batch.score)
            self.meter.add("scores/squares", batch.score.square())
            self.meter.add("rewards/products", rewards * batch.score)
            self.meter.add("logps/mean", policy.sums)
        return terms

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The correlation of rewards and scores, in place of the moments that it is made of; 0 if one has no spread."""
        moments = ("rewards/squares", "scores/squares", "rewards/products")
        rewards, scores, products = (means.pop(name) for name in moments)
        spread = (rewards - means["rewards/mean"] ** 2) * (scores - means["scores/mean"] ** 2)
        covariance = products - means["rewards/mean"] * means["scores/mean"]
        return {"rewards/correlation": covariance / spread**0.5 if spread > 0 else 0.0}
