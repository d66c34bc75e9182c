"""What all methods have in common that see log-probabilities of the policy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_align.core.batch import Batch, Rows
from lit_align.core.demand import Demand
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import SequenceLogps, Term
from lit_align.functional.logprobs import segment_sums
from lit_align.functional.token_features import Distribution, TokenFeature
from lit_align.references import Precomputed

Losses = Tensor | dict[str, Term]
"""[B] losses per example; or named terms, where a loss has parts with different denominators."""


def as_terms(losses: Losses) -> dict[str, Term]:
    """The uniform form of what a method returned."""
    return {"loss": Term(losses)} if isinstance(losses, Tensor) else losses


class LanguageModelModule(AlignmentModule):
    """Methods that see log-probabilities of the policy."""

    policy: Scorer
    reads: ClassVar[tuple[str, ...]] = ()
    """What of a batch `losses` is given besides, by keyword, such as `margin`."""

    best_is_target: bool = False
    """Whether, of ranked responses that `data.convert` makes pairs of, the best one is the text to stay close to."""

    @property
    def compares_tokens(self) -> bool:
        """Whether the reference's log-probabilities of single tokens, or whole distributions, are needed."""
        return any(feature.needs_reference for feature in self.token_features.values())

    def setup(self, stage: str) -> None:
        """Refuse cached sums where they cannot do, before the data are scored for them."""
        super().setup(stage)
        choice = self.reference_choice
        if self.compares_tokens and (choice == "precomputed" or isinstance(choice, Precomputed)):
            raise ConfigError(
                f"{type(self).__name__} compares single tokens with the reference, and a cache holds sums only",
                got="reference: precomputed",
                fix="use reference: auto or frozen_copy",
            )

    @property
    def demands(self) -> tuple[Demand, ...]:
        """What every row must have besides `needs_fields`, given the arguments; checked when data are read."""
        return ()

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """What of the distribution at each token `losses` is given besides, by keyword, summed per response."""
        return {}

    def facts(self, batch: Batch) -> dict[str, Any]:
        """What `losses` is given besides log-probabilities and features, by keyword."""
        return {name: getattr(batch, name) for name in self.reads}

    def policy_logps(self, rows: Rows) -> SequenceLogps:
        """Log-probabilities of the rows' responses under the policy, with gradient."""
        return self.policy.sequence_logps(rows, statistics=self.metrics_are_read)

    def policy_and_reference(self, batch: Any) -> tuple[SequenceLogps, SequenceLogps, dict[str, Tensor]]:
        """Score the batch's M responses.

        Returns:
            Log-probabilities under the policy, with gradient; under the reference, zeros where there is none; and the
            sums [M] of each of `token_features`.
        """
        compared = any(feature.needs_reference for feature in self.token_features.values())
        reference = self.reference_logps(batch, whole=compared)
        distribution = None
        if compared and self.reference is not None:
            distribution, self.reference.distribution = self.reference.distribution, None
        if compared and distribution is None:
            raise ConfigError(
                f"{type(self).__name__} compares whole distributions with the reference",
                got=f"reference: {type(self.reference).__name__}, which has none",
                fix="use reference: auto or frozen_copy",
            )
        policy, features = self._policy_values(batch.rows, distribution)
        if reference is None:
            reference = policy._replace(sums=torch.zeros_like(policy.sums), tokens=None)
        return policy, reference, features

    def _policy_values(self, rows: Rows, reference: Distribution | None) -> tuple[SequenceLogps, dict[str, Tensor]]:
        features = self.token_features
        if not features:
            return self.policy_logps(rows), {}
        values = self.policy(
            rows, statistics=self.metrics_are_read, features=tuple(features.values()), reference=reference
        )
        sums = segment_sums(values, rows.response, len(rows.response_lengths))
        logps = SequenceLogps(sums[:, 0], rows.response_lengths, values[:, 0])
        return logps, dict(zip(features, sums[:, 1:].unbind(-1), strict=True))

    def record_tokens(self, rows: Rows, chosen: Tensor, rejected: Tensor | None = None) -> None:
        """Record TRL's metrics of single tokens, at the steps where they are read.

        Args:
            rows: what the policy was last called with.
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


def marked(like: Tensor, *indices: Tensor) -> Tensor:
    """[M] bool: where the indices point, in a table as long as `like`."""
    nobody = torch.zeros_like(like, dtype=torch.bool)
    return nobody.index_fill(0, torch.cat([index.flatten() for index in indices]), True)
