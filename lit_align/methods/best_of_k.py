"""Best of K: Dong et al. 2023, "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment".

https://arxiv.org/abs/2304.06767, with the likelihood of supervised fine-tuning, Eq. 1 of Radford et al. 2018
(https://openai.com/index/language-unsupervised/). Of a list's responses the best by score is imitated, the others are
only measured.

Differs: "K-wise SFT on the best" is no single paper's; RAFT repeats sampling, ranking and fine-tuning, and this is one
of its rounds on responses that are there already. WebGPT (https://arxiv.org/abs/2112.09332) and Llama 2
(https://arxiv.org/abs/2307.09288) choose the best of K likewise.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import ListwiseModule
from lit_align.core.outputs import ListLogps, Per, Term


def best_of_k_loss(policy: ListLogps) -> Tensor:
    """Negative log-likelihood of the best response.

    Args:
        policy: summed log-probabilities [B, K], best response first, nats, with gradient.

    Returns:
        [B] losses, nats, not yet divided by a number of tokens.
    """
    return -policy.sums[:, 0]


class BestOfK(ListwiseModule):
    """Fine-tuning on the best of K responses.

    When: prompts have several scored responses, and a plain baseline for the list methods is wanted.

    Args:
        reduction: tokens: every token of the best responses weighs the same; sequences: every response does.
        learning_rate: peak learning rate.
    """

    needs_reference = False

    def __init__(
        self,
        *,
        reduction: Literal["tokens", "sequences"] = "tokens",
        learning_rate: float = 2e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.reduction = reduction

    def losses(self, policy: ListLogps, reference: ListLogps, scores: Tensor) -> dict[str, Term]:
        """Losses [B] of the lists' best responses, nats."""
        if self.reduction == "sequences":
            return {"nll": Term(-policy.means[:, 0])}
        return {"nll": Term(best_of_k_loss(policy), Per.TOKENS)}
