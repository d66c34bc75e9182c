"""NPO: Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning".

https://arxiv.org/abs/2404.05868 (equation number not checked). DPO's loss with a rejected response only: completions to
forget become less likely than under the reference, ever more slowly, where gradient ascent would go on for ever. Other
completions are kept by imitating them, or by staying close to the reference on them.

Differs: the authors draw as many completions to keep as to forget; here both stand in one file, labelled, and each term
is divided by its own count: completions to forget, tokens to keep. Their KL term sums over all positions of a batch and
divides by its rows; here it is the mean over the kept completions' tokens, of KL(reference || policy).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_align.core.kinds import UnpairedModule
from lit_align.core.outputs import Per, SequenceLogps, Term
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.token_features import ForwardKL, TokenFeature


def npo_loss(policy: SequenceLogps, reference: SequenceLogps, beta: float) -> Tensor:
    """Negative log-likelihood that a completion loses against the reference, scaled so that beta -> 0 is its ascent.

    Args:
        policy: summed log-probabilities [B], nats, with gradient.
        reference: the same under the reference, without gradient.
        beta: inverse temperature, > 0, per nat.

    Returns:
        [B] losses, nats; 2 log(2) / beta where policy and reference agree.
    """
    return -2 / beta * logsigmoid(-beta * policy.logratios(reference))


class NPO(UnpairedModule):
    """Negative Preference Optimization.

    When: a model has to unlearn texts: label those undesirable, and texts that it must keep desirable.

    Args:
        beta: inverse temperature; smaller forgets faster, and collapses sooner.
        retain_weight: weight of the desirable completions' mean negative log-likelihood per token.
        kl_weight: weight of their mean divergence from the reference per token.
        learning_rate: peak learning rate.
    """

    needs_both_labels = False

    def __init__(
        self,
        *,
        beta: float = 0.1,
        retain_weight: float = 1.0,
        kl_weight: float = 0.0,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.retain_weight = not_negative("retain_weight", retain_weight)
        self.kl_weight = not_negative("kl_weight", kl_weight)

    @property
    def token_features(self) -> dict[str, TokenFeature]:
        """The divergence at each token, if it has a weight."""
        return {"divergence": ForwardKL()} if self.kl_weight else {}

    def losses(
        self,
        policy: SequenceLogps,
        reference: SequenceLogps,
        label: Tensor,
        kl: Tensor,
        divergence: Tensor | None = None,
    ) -> dict[str, Term]:
        """Losses [B], nats: of completions to forget, and of those to keep."""
        terms = {"forget": Term((~label) * npo_loss(policy, reference, self.beta), Per.UNDESIRABLE)}
        if self.retain_weight:
            terms["retain"] = Term(-self.retain_weight * label * policy.sums, Per.DESIRABLE_TOKENS)
        if divergence is not None:
            terms["divergence"] = Term(self.kl_weight * label * divergence, Per.DESIRABLE_TOKENS)
        return terms
