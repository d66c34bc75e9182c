"""CPO: Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine
Translation".

https://arxiv.org/abs/2401.08417, Eq. 3 (so TRL's code names the preference term), plus the negative log-likelihood of
the chosen responses. DPO whose reference is uniform and so drops out: the chosen response must be likelier than the
rejected one by its whole log-probability. The second term keeps the chosen responses likely.

Differs: the paper takes the expectation of the negative log-likelihood of whole responses (`nll_per: sequence_sum`);
the authors' code and TRL 1.16 the mean over all chosen tokens of the batch, which is the default here. TRL calls the
weight `cpo_alpha`. The present version of the authors' code trains ARPO, which penalises the rejected side besides.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import Losses, PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import not_negative, positive, share
from lit_align.functional.pairwise import logistic


def cpo_loss(policy: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen response wins by its log-probability.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        beta: scale of the rewards, > 0, per nat.
        label_smoothing: believed share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats.
    """
    return logistic(beta * policy.margins, label_smoothing)


class CPO(PairwiseModule):
    """Contrastive Preference Optimization.

    When: chosen responses are good enough to imitate, and memory for a reference is short.

    Args:
        beta: scale of the rewards, log-probabilities of whole responses.
        nll_weight: weight of the chosen responses' negative log-likelihood; 0 leaves it out.
        nll_per: tokens: mean over all chosen tokens of the step, as in the authors' code; examples: mean over
            responses of their token means; sequence_sum: mean over whole responses, as in the paper.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
        learning_rate: peak learning rate; the paper's 1e-4 is for LoRA.
    """

    needs_reference = False

    def __init__(
        self,
        *,
        beta: float = 0.1,
        nll_weight: float = 1.0,
        nll_per: Literal["tokens", "examples", "sequence_sum"] = "tokens",
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.nll_weight = not_negative("nll_weight", nll_weight)
        self.nll_per = nll_per
        self.label_smoothing = share("label_smoothing", label_smoothing, below=0.5)

    def losses(self, policy: PairLogps, reference: PairLogps) -> Losses:
        """Losses [B] of the pairs, nats, and the weighted negative log-likelihood of the chosen responses."""
        preference = cpo_loss(policy, self.beta, self.label_smoothing)
        if not self.nll_weight:
            return preference
        nll = -self.nll_weight * (policy.mean() if self.nll_per == "examples" else policy).chosen
        per = Per.TOKENS if self.nll_per == "tokens" else Per.EXAMPLES
        return {"preference": Term(preference), "nll": Term(nll, per)}
