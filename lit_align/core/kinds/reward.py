"""Methods that train a scalar head to score responses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from lit_align.core.batch import DataKind, PairBatch
from lit_align.core.kinds.language import Losses, as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import Term


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
