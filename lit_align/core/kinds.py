"""One base class per kind of data: each turns a batch into log-probabilities and asks the method for losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_align.core.batch import DataKind, DemonstrationBatch, LabelBatch, PairBatch, Rows
from lit_align.core.forward import Scorer
from lit_align.core.metrics import all_reduce_sum
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import PairLogps, SequenceLogps, Term

Losses = Tensor | dict[str, Term]
"""[B] losses per example; or named terms, where a loss has parts with different denominators."""


def as_terms(losses: Losses) -> dict[str, Term]:
    """The uniform form of what a method returned."""
    return {"loss": Term(losses)} if isinstance(losses, Tensor) else losses


class LanguageModelModule(AlignmentModule):
    """Methods that see log-probabilities of the policy."""

    policy: Scorer

    def policy_logps(self, rows: Rows) -> SequenceLogps:
        """Log-probabilities of the rows' responses under the policy, with gradient."""
        return self.policy.sequence_logps(rows, statistics=self.metrics_are_read)

    def record_tokens(self, rows: Rows, chosen: Tensor, rejected: Tensor | None = None) -> None:
        """Record TRL's metrics of single tokens, at the steps where they are read.

        Args:
            rows: what `policy_logps` was last called with.
            chosen: [M] bool, the responses that are imitated.
            rejected: [M] bool, those that are not, where the data have such.
        """
        if (statistics := self.policy.statistics) is None:
            return
        scored = in_chosen = chosen[rows.response]
        if rejected is not None:
            in_rejected = rejected[rows.response]
            scored = in_chosen | in_rejected
            self.meter.add("logits/chosen", statistics.mean_logit, in_chosen)
            self.meter.add("logits/rejected", statistics.mean_logit, in_rejected)
        self.meter.add("entropy", statistics.entropy, scored)
        self.meter.add("mean_token_accuracy", statistics.correct, in_chosen)


class PairwiseModule(LanguageModelModule):
    """Methods that learn from a chosen and a rejected response to one prompt."""

    data_kind = DataKind.PAIRS
    beta: float = 1.0
    """Scale of the implicit rewards."""
    rewards_per_token: ClassVar[bool] = False
    """Whether implicit rewards are of mean log-probabilities per token instead of their sums."""

    @abstractmethod
    def losses(self, policy: PairLogps, reference: PairLogps) -> Losses:
        """Losses [B] of the pairs.

        Args:
            policy: log-probabilities with gradient.
            reference: the same under the reference, without gradient; zeros where the method needs no reference.
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
        return self.beta * (policy.chosen - reference.chosen), self.beta * (policy.rejected - reference.rejected)

    def terms(self, batch: PairBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records rewards, margins and log-probabilities."""
        reference_logps = self.reference_logps(batch)
        logps = self.policy_logps(batch.rows)
        if reference_logps is None:
            reference_logps = logps._replace(sums=torch.zeros_like(logps.sums))
        policy, reference = pair_up(logps, batch), pair_up(reference_logps, batch)
        terms = as_terms(self.losses(policy, reference))
        self._record(policy, reference)
        nobody = torch.zeros_like(logps.lengths, dtype=torch.bool)
        self.record_tokens(
            batch.rows, nobody.index_fill(0, batch.chosen, True), nobody.index_fill(0, batch.rejected, True)
        )
        return terms

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
    return PairLogps(
        chosen=logps.sums[batch.chosen],
        rejected=logps.sums[batch.rejected],
        chosen_lengths=logps.lengths[batch.chosen],
        rejected_lengths=logps.lengths[batch.rejected],
        prompt=None if batch.prompt is None else logps.sums[batch.prompt],
        prompt_lengths=None if batch.prompt is None else logps.lengths[batch.prompt],
    )


class UnpairedModule(LanguageModelModule):
    """Methods that learn from single completions marked desirable or undesirable."""

    data_kind = DataKind.UNPAIRED
    beta: float = 1.0
    """Scale of the implicit rewards."""

    @abstractmethod
    def losses(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> Losses:
        """Losses [B] of the completions.

        Args:
            policy: log-probabilities with gradient.
            reference: the same under the reference, without gradient.
            label: [B] bool, True for desirable.
            kl: scalar >= 0, nats, detached: estimate of the policy's divergence from the reference; 0 where the
                method does not ask for it (`needs_kl`).
        """

    def terms(self, batch: LabelBatch) -> dict[str, Term]:
        """Losses of the batch's completions; records rewards by label and the KL estimate."""
        reference = self.reference_logps(batch)
        assert reference is not None, "unpaired methods compare with a reference"
        kl = self.batch_kl(batch) if self.needs_kl else reference.sums.new_zeros(())
        policy = self.policy_logps(batch.rows)
        self.record_tokens(batch.rows, batch.label, ~batch.label)
        terms = as_terms(self.losses(policy, reference, batch.label, kl))
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
        ratios = self.policy.sequence_logps(rows).sums - reference.sums
        if batch.kl_rows is None:
            ratios = ratios[:0]
        total = all_reduce_sum(torch.stack([ratios.sum(), ratios.new_tensor(len(ratios))]))
        return (total[0] / total[1].clamp(min=1)).clamp(min=0)

    @torch.no_grad()
    def _record(self, policy: SequenceLogps, reference: SequenceLogps, label: Tensor, kl: Tensor) -> None:
        rewards = self.beta * (policy.sums - reference.sums)
        for name, mask in (("chosen", label), ("rejected", ~label)):
            self.meter.add(f"rewards/{name}", rewards, mask)
            self.meter.add(f"logps/{name}", policy.sums, mask)
        self.meter.add("kl", kl)

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The margin between the mean rewards of the two labels, which no single completion has."""
        return {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}


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


class RewardModule(AlignmentModule):
    """Methods that train a scalar head to score responses, from pairs."""

    data_kind = DataKind.PAIRS
    needs_reference = False
    head: ClassVar[Literal["lm", "reward"]] = "reward"

    @abstractmethod
    def losses(self, chosen: Tensor, rejected: Tensor, margin: Tensor | None) -> Losses:
        """Losses [B] of the pairs.

        Args:
            chosen: [B] scores of the chosen responses, with gradient.
            rejected: [B] scores of the rejected responses, with gradient.
            margin: [B] how much better the chosen response was judged, or None.
        """

    def terms(self, batch: PairBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records accuracy, margin and the range of scores."""
        scores = self.policy(batch.rows).double()
        chosen, rejected = scores[batch.chosen], scores[batch.rejected]
        self.meter.add("accuracy", (chosen > rejected).double())
        self.meter.add("margin", chosen - rejected)
        self.meter.add("mean_reward", scores)
        self.meter.add_extremes("reward", scores)
        return as_terms(self.losses(chosen, rejected, batch.margin))
