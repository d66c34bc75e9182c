"""ODPO: Amini, Vieira and Cotterell 2024, "Direct Preference Optimization with an Offset".

https://arxiv.org/abs/2402.10571, DPO's Eq. 7 with an offset inside the sigmoid. A response that was judged much better
must win by more than one that was judged a little better. The data say how much: by a score of each response, or a
`margin`.

Differs: the paper's offset is the logarithm of the score's gap, which is negative for gaps below 1: then a pair need
not even be won. Its ablation takes the gap itself (`identity`), its code also the logarithm of the scores' quotient
(`ratio`). TRL has no ODPO. Where the logarithm does not exist, the row is refused as soon as it is read: a clamp, such
as at 1e-8, would switch the pair off in silence.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.demand import Demand
from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


class ODPO(PairwiseModule):
    """DPO with an Offset.

    When: the data say how much better the chosen response is.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: scale of the offset; 0 is DPO.
        offset: log: logarithm of the margin (the paper's); identity: the margin; ratio: logarithm of the chosen score
            over the rejected one.
    """

    reads = ("margin", "chosen_scores", "rejected_scores")
    needs_fields = frozenset({"margin"})

    def __init__(
        self,
        *,
        beta: float = 0.5,
        alpha: float = 1.0,
        offset: Literal["log", "identity", "ratio"] = "log",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.alpha = not_negative("alpha", alpha)
        self.offset = offset

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Logarithms are of numbers above 0."""
        if self.offset == "identity":
            return ()
        fix = "drop such pairs (data.on_bad_row: drop), or set model.offset to identity"
        return (Demand("margin" if self.offset == "log" else "scores", 0.0, strict=True, fix=fix),)

    def losses(
        self,
        policy: PairLogps,
        reference: PairLogps,
        margin: Tensor,
        chosen_scores: Tensor | None,
        rejected_scores: Tensor | None,
    ) -> Tensor:
        """Losses [B] of the pairs, nats."""
        if self.offset == "ratio":
            assert chosen_scores is not None, "`demands` says that every pair has scores"
            assert rejected_scores is not None, "`demands` says that every pair has scores"
            offset = chosen_scores.log() - rejected_scores.log()
        else:
            offset = margin if self.offset == "identity" else margin.log()
        return logistic(self.beta * policy.logratios(reference).margins - self.alpha * offset)
