"""Methods that train a head to score responses: what they have in common, and those that learn from pairs and lists."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_align.core.batch import Batch, DataKind, ListBatch, PairBatch, Rows
from lit_align.core.demand import Demand
from lit_align.core.forward import RewardScorer
from lit_align.core.kinds.language import Losses, as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import Term
from lit_align.functional.listwise import better_than


class RewardModule(AlignmentModule):
    """Methods that train a head to score responses.

    A head of one number is read at the last token of a response. A method may ask for more numbers (`num_outputs`)
    and says which one number they come to (`response_scores`).
    """

    policy: RewardScorer
    needs_reference = False
    head: ClassVar[Literal["lm", "reward", "tokens"]] = "reward"
    reads: ClassVar[tuple[str, ...]] = ()
    """What of a batch `losses` is given besides, by keyword, such as `margin`."""

    @property
    def demands(self) -> tuple[Demand, ...]:
        """What every row must have besides `needs_fields`, given the arguments; checked when data are read."""
        return ()

    def facts(self, batch: Batch) -> dict[str, Any]:
        """What `losses` is given besides scores, by keyword."""
        return {name: getattr(batch, name) for name in self.reads}

    def response_scores(self, outputs: Tensor) -> Tensor:
        """The one number that outputs of the head come to, higher is better.

        Args:
            outputs: [M], or [M, K] for a head of several numbers.

        Returns:
            [M].
        """
        return outputs

    def score_responses(self, rows: Rows) -> Tensor:
        """The score of each response of `rows`, [M] float64."""
        return self.response_scores(self.policy(rows).double())

    def record_scores(self, scores: Tensor) -> None:
        """Record mean and range of scores [M]."""
        self.meter.add("mean_reward", scores)
        self.meter.add_extremes("reward", scores)


class PairwiseRewardModule(RewardModule):
    """Methods that train a head to score responses, from pairs."""

    data_kind = DataKind.PAIRS

    @abstractmethod
    def losses(self, chosen: Tensor, rejected: Tensor, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the pairs.

        Args:
            chosen: [B] scores of the chosen responses, or [B, K] outputs, float64 with gradient.
            rejected: the same of the rejected responses.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: PairBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records accuracy, margin and the range of scores."""
        outputs = self.policy(batch.rows).double()
        with torch.no_grad():
            scores = self.response_scores(outputs)
            self.record_pairs(scores[batch.chosen], scores[batch.rejected])
            self.record_scores(scores)
        return as_terms(self.losses(outputs[batch.chosen], outputs[batch.rejected], **self.facts(batch)))

    def record_pairs(self, chosen: Tensor, rejected: Tensor) -> None:
        """Record how far scores of pairs, [B] each, are right; a tie is not."""
        self.meter.add("accuracy", (chosen > rejected).double())
        self.meter.add("margin", chosen - rejected)


class TokenRewardModule(PairwiseRewardModule):
    """Methods that train a head to score responses at every token, from pairs; the last token's score counts."""

    @abstractmethod
    def losses(self, chosen: Tensor, rejected: Tensor, mask: Tensor, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the pairs.

        Args:
            chosen: [B, T] scores at equal places of the two responses, float64 with gradient.
            rejected: the same of the rejected responses.
            mask: [B, T] bool, places from the first token in which the two differ to the end of the shorter one.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: PairBatch) -> dict[str, Term]:
        """Losses of the batch's pairs; records accuracy, margin and the range of the last tokens' scores."""
        rows = batch.rows
        scores = self.policy(rows, every_token=True).double()
        with torch.no_grad():
            last = scores[rows.response_lengths.cumsum(0) - 1]
            self.record_pairs(last[batch.chosen], last[batch.rejected])
            self.record_scores(last)
        chosen, rejected, mask = self._aligned(scores, batch)
        return as_terms(self.losses(chosen, rejected, mask, **self.facts(batch)))

    def score_responses(self, rows: Rows) -> Tensor:
        """The score at the last token of each response, [M] float64."""
        return self.policy(rows).double()

    def _aligned(self, scores: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [N] of all tokens as two tables [B, T] of equal places, and where the two can be compared."""
        rows = batch.rows
        places = rows.position_ids.flatten()[rows.token_index]
        places = places - places.min()
        shape = (len(rows.response_lengths), int(places.max()) + 1)
        table = scores.new_zeros(shape).index_put((rows.response, places), scores)
        tokens = torch.full(shape, -1, device=places.device).index_put((rows.response, places), rows.target)
        chosen, rejected = tokens[batch.chosen], tokens[batch.rejected]
        differs = (chosen != rejected).cumsum(1) > 0
        return table[batch.chosen], table[batch.rejected], differs & (chosen >= 0) & (rejected >= 0)


class ListwiseRewardModule(RewardModule):
    """Methods that train a head to score responses, from ranked lists."""

    data_kind = DataKind.RANKED

    @abstractmethod
    def losses(self, scores: Tensor, quality: Tensor, mask: Tensor, *args: Any, **facts: Any) -> Losses:
        """Losses [B] of the lists.

        Args:
            scores: [B, K] float64 with gradient, best response first; 0 where a list is shorter.
            quality: [B, K] float64, what the data say, falling along a list; 0 where it is shorter.
            mask: [B, K] bool, where a list has a response.
            *args: nothing.
            **facts: what `reads` names.
        """

    def terms(self, batch: ListBatch) -> dict[str, Term]:
        """Losses of the batch's lists; records accuracy and margin over the pairs within lists."""
        outputs = self.policy(batch.rows).double()
        scores = torch.where(batch.mask, outputs[batch.places], 0.0)
        with torch.no_grad():
            better = better_than(batch.scores, batch.mask)
            differences = scores[:, :, None] - scores[:, None, :]
            self.meter.add("accuracy", ((differences > 0) & better).sum(), count=better.sum())
            self.meter.add("margin", (differences * better).sum(), count=better.sum())
            others = scores.masked_fill(~batch.mask, -torch.inf)[:, 1:]
            self.meter.add("top_accuracy", (scores[:, :1] > others).all(-1).double())
            self.record_scores(outputs)
        return as_terms(self.losses(scores, batch.scores, batch.mask, **self.facts(batch)))
