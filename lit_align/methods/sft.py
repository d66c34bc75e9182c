"""SFT: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".

https://openai.com/index/language-unsupervised/, Eq. 1, applied to demonstrations: maximum likelihood of a completion
given its prompt. Only completion tokens are scored.

Differs: the mean is over all completion tokens of the optimiser step, whatever the number of ranks or of accumulated
micro-batches. `reduction: sequences` weighs every text equally.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import DemonstrationModule
from lit_align.core.outputs import Per, SequenceLogps, Term


def sft_loss(policy: SequenceLogps) -> Tensor:
    """Negative log-likelihood of each text.

    Args:
        policy: summed log-probabilities [B], nats, with gradient.

    Returns:
        [B] losses, nats, not yet divided by a number of tokens.
    """
    return -policy.sums


class SFT(DemonstrationModule):
    """Supervised fine-tuning.

    When: before everything else: demonstrations of good answers.

    Args:
        reduction: tokens: every token weighs the same; sequences: every text does.
        learning_rate: peak learning rate.
    """

    def __init__(
        self,
        *,
        reduction: Literal["tokens", "sequences"] = "tokens",
        learning_rate: float = 2e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.reduction = reduction

    def losses(self, policy: SequenceLogps) -> dict[str, Term]:
        """Losses [B] of the texts, nats."""
        if self.reduction == "sequences":
            return {"nll": Term(-policy.means)}
        return {"nll": Term(sft_loss(policy), Per.TOKENS)}
