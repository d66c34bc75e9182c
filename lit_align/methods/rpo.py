"""RPO: Liu et al. 2024, "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial
Regularizer".

https://arxiv.org/abs/2405.16436, DPO's Eq. 7 plus a weighted negative log-likelihood of the chosen responses. DPO alone
may lower the likelihood of both responses; the second term, which the paper derives from a reward that an adversary
picks among those that fit the data, holds the chosen one up.

Differs: the same eta means weights that are orders of magnitude apart. The theory and the authors' chat models sum over
a response and weigh with eta * beta (`sequence_sum`, the default); their models for reasoning average per token within
a response and weigh with eta (`sequence_mean`); TRL 1.16's `["sigmoid", "sft"]` averages over all chosen tokens of the
batch and weighs with eta (`token_mean`). Not NVIDIA's reward-aware RPO, nor iterative RPO.
"""

from __future__ import annotations

from typing import Any, Literal

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import not_negative, positive
from lit_align.methods.dpo import dpo_loss

Reduction = Literal["sequence_sum", "sequence_mean", "token_mean"]


def sft_term(policy: PairLogps, beta: float, eta: float, reduction: Reduction) -> Term:
    """Weighted negative log-likelihoods of the chosen responses.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.
        beta: DPO's beta, a part of the weight if responses are summed over.
        eta: weight.
        reduction: see `RegularizedPO`.

    Returns:
        [B] values, nats, and what their sum is divided by.
    """
    if reduction == "sequence_sum":
        return Term(-eta * beta * policy.chosen)
    if reduction == "sequence_mean":
        return Term(-eta * policy.mean().chosen)
    return Term(-eta * policy.chosen, Per.TOKENS)


class RegularizedPO(PairwiseModule):
    """Regularized Preference Optimization: DPO with a term of fine-tuning.

    When: DPO makes the chosen responses less likely than they were.

    Args:
        beta: KL strength of the DPO term.
        eta: weight of the chosen responses' negative log-likelihood; what it multiplies depends on `sft_reduction`.
        sft_reduction: sequence_sum: eta * beta times the mean over responses of their sums (the paper's objective; its
            chat models use eta 0.005 and beta 0.01); sequence_mean: eta times the mean over responses of their means
            per token (its models for reasoning: 0.2 and 0.5); token_mean: eta times the mean over all tokens (TRL).
    """

    def __init__(
        self, *, beta: float = 0.1, eta: float = 0.005, sft_reduction: Reduction = "sequence_sum", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.eta = not_negative("eta", eta)
        self.sft_reduction = sft_reduction

    def losses(self, policy: PairLogps, reference: PairLogps) -> dict[str, Term]:
        """DPO's losses and the weighted negative log-likelihoods of the chosen responses, each [B], nats."""
        sft = sft_term(policy, self.beta, self.eta, self.sft_reduction)
        return {"preference": Term(dpo_loss(policy, reference, self.beta)), "sft": sft}
