"""ORPO: Hong, Lee and Thorne 2024, "ORPO: Monolithic Preference Optimization without Reference Model".

https://arxiv.org/abs/2403.07691, Eq. 6. Fine-tuning on the chosen responses, plus a term that raises their odds over
those of the rejected ones. No reference model and no separate SFT stage.

Differs: the authors' code and TRL take the NLL over prompt and response, LLaMA-Factory over the response, as here
(`nll_tokens`); LLaMA-Factory also averages it per sequence (`nll_per`). The paper's lambda is TRL's and our beta. Odds
are of the mean log-probability per response token. `logps/*` are sums, as for DPO; TRL logs means per token here.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import log_odds, logistic


def log_odds_ratio(policy: PairLogps) -> Tensor:
    """Log of the odds ratio between chosen and rejected.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.

    Returns:
        [B], nats; finite, as is the gradient, for probabilities up to 1.
    """
    mean = policy.mean()
    return log_odds(mean.chosen) - log_odds(mean.rejected)


def odds_ratio_loss(policy: PairLogps) -> Tensor:
    """Negative log-sigmoid of the log odds ratio; [B] losses, nats."""
    return logistic(log_odds_ratio(policy))


class ORPO(PairwiseModule):
    """Odds Ratio Preference Optimization.

    When: one stage from a base model, without fine-tuning it first.

    Args:
        beta: weight of the odds-ratio term (the paper's lambda).
        nll_tokens: which tokens the NLL term covers: response_only, or prompt_and_response as in the authors' code.
        nll_per: tokens: mean over all tokens of the batch; examples: mean over sequences of their token means.
        learning_rate: peak learning rate.
    """

    needs_reference = False
    rewards_per_token = True

    def __init__(
        self,
        *,
        beta: float = 0.1,
        nll_tokens: Literal["response_only", "prompt_and_response"] = "response_only",
        nll_per: Literal["tokens", "examples"] = "tokens",
        learning_rate: float = 5e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta = positive("beta", beta)
        self.nll_tokens = nll_tokens
        self.nll_per = Per(nll_per)

    @property
    def score_prompts(self) -> bool:
        """Whether batches also score the tokens of the prompt."""
        return self.nll_tokens == "prompt_and_response"

    def losses(self, policy: PairLogps, reference: PairLogps) -> dict[str, Term]:
        """NLL of the chosen responses and the weighted odds-ratio term, each [B], nats."""
        nll, lengths = self.nll(policy)
        if self.nll_per is Per.EXAMPLES:
            nll = nll / lengths.clamp(min=1)
        return {"nll": Term(nll, self.nll_per), "odds_ratio": Term(self.beta * odds_ratio_loss(policy))}

    def nll(self, policy: PairLogps) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods of chosen responses, with their prompts if those are scored, and tokens; [B]."""
        if policy.prompt is None or policy.prompt_lengths is None:
            return -policy.chosen, policy.chosen_lengths
        return -policy.chosen - policy.prompt, policy.chosen_lengths + policy.prompt_lengths

    def metrics(self, policy: PairLogps) -> dict[str, Tensor]:
        """TRL's `log_odds_chosen`, the log odds ratio, and `log_odds_ratio`, its log-sigmoid; each [B], nats."""
        ratio = log_odds_ratio(policy)
        return {"log_odds_chosen": ratio, "log_odds_ratio": -logistic(ratio)}
