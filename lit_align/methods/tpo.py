"""TPO: Saeidi et al. 2024, "Triple Preference Optimization: Achieving Better Alignment using a Single Step
Optimization".

https://arxiv.org/abs/2405.16681 (equation number not checked). Each prompt has three responses: a gold one is imitated,
and of two others the chosen one must be likelier than the rejected one. That is fine-tuning and preference
optimisation in one step, with no reference model.

Differs: the name is TRL's and the paper's; other methods are called TPO too. The negative log-likelihood is a mean over
all gold tokens of the step, as in TRL 1.16, which also offers hinge and IPO losses for the pair. The gold response
comes as the data's `target` (TRL's column is `reference`), or from ranked responses by `data.convert: triples`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import not_negative, positive, share
from lit_align.functional.pairwise import logistic


class TriplePO(PairwiseModule):
    """Triple Preference Optimization (TPO, TPO-L).

    When: besides pairs there is a gold response to each prompt, and fine-tuning and alignment should be one step.

    Args:
        beta: scale of the rewards, log-probabilities of responses.
        alpha: weight of the gold responses' mean negative log-likelihood per token.
        length_normalized: rewards are log-probabilities per token, as in TPO-L.
        gamma: margin by which the chosen response must win; 0 for TPO, above 0 for TPO-L.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
    """

    needs_reference = False
    needs_fields = frozenset({"target"})
    reads_target = True

    def __init__(
        self,
        *,
        beta: float = 0.01,
        alpha: float = 1.0,
        length_normalized: bool = False,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.alpha = not_negative("alpha", alpha)
        self.length_normalized = length_normalized
        self.gamma = not_negative("gamma", gamma)
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Implicit rewards of chosen and rejected, each [B]: beta times the log-probability, or that per token."""
        return super().rewards(policy.mean() if self.length_normalized else policy, reference)

    def losses(self, policy: PairLogps, reference: PairLogps) -> dict[str, Term]:
        """Losses of the pairs, and weighted negative log-likelihoods of the gold responses, each [B], nats."""
        chosen, rejected = self.rewards(policy, reference)
        return {
            "preference": Term(logistic(chosen - rejected - self.gamma, self.label_smoothing)),
            "nll": Term(-self.alpha * policy.close_to, Per.TARGET_TOKENS),
        }
