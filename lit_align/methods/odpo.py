"""ODPO: Amini, Vieira and Cotterell 2024, "Direct Preference Optimization with an Offset".

https://arxiv.org/abs/2402.10571, DPO's Eq. 7 with an offset inside the sigmoid. A response that was judged much better
must win by more than one that was judged a little better. The data say how much: by a score of each response, or a
`margin`.

Differs: the paper's offset is the logarithm of the score's gap, which is negative for gaps below 1: then a pair need
not even be won. Its ablation takes the gap itself (`identity`), its code also the logarithm of the scores' quotient
(`ratio`). TRL has no ODPO. Where the logarithm does not exist, training stops and names the row: a clamp, such as at
1e-8, would switch the pair off in silence.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.errors import ConfigError, DataError
from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.pairwise import logistic


def logarithm(values: Tensor, field: str, rows: Tensor) -> Tensor:
    """Logarithm of positive numbers of the data.

    Args:
        values: [B], what the data say.
        field: the column that it comes from.
        rows: [B] int64, rows of the data.

    Returns:
        [B].

    Raises:
        DataError: a number is 0 or less.
    """
    (wrong,) = torch.nonzero(values <= 0, as_tuple=True)
    if len(wrong):
        raise DataError(
            f"ODPO takes the logarithm of '{field}', which is not above 0",
            row=int(rows[wrong[0]]),
            field=field,
            value=values[wrong[0]].item(),
            fix="drop ties and inverted pairs, or set model.offset to identity",
        )
    return values.log()


class ODPO(PairwiseModule):
    """DPO with an Offset.

    When: the data say how much better the chosen response is.

    Args:
        beta: KL strength; larger stays closer to the reference.
        alpha: scale of the offset; 0 is DPO.
        offset: log: logarithm of the margin (the paper's); identity: the margin; ratio: logarithm of the chosen score
            over the rejected one.
    """

    reads = ("margin", "chosen_scores", "rejected_scores", "source_rows")
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

    def losses(
        self,
        policy: PairLogps,
        reference: PairLogps,
        margin: Tensor,
        chosen_scores: Tensor | None,
        rejected_scores: Tensor | None,
        source_rows: Tensor,
    ) -> Tensor:
        """Losses [B] of the pairs, nats."""
        if self.offset == "ratio":
            if chosen_scores is None or rejected_scores is None:
                raise ConfigError(
                    "ODPO's offset needs a score of each response",
                    got="model.offset: ratio, and a pair without scores",
                    fix="add 'score_chosen' and 'score_rejected' to the data, or set model.offset to log or identity",
                )
            better = logarithm(chosen_scores, "score_chosen", source_rows)
            offset = better - logarithm(rejected_scores, "score_rejected", source_rows)
        else:
            offset = margin if self.offset == "identity" else logarithm(margin, "margin", source_rows)
        return logistic(self.beta * policy.logratios(reference).margins - self.alpha * offset)
