"""ORPO: Hong, Lee and Thorne 2024, "ORPO: Monolithic Preference Optimization without Reference Model".

https://arxiv.org/abs/2403.07691, Eq. 6. Fine-tuning on the chosen responses, plus a term that raises their odds over
those of the rejected ones. No reference model and no separate SFT stage.

Differs: the authors' code and TRL take the NLL over prompt and response, LLaMA-Factory over the response, as here
(`nll_tokens`); LLaMA-Factory also averages it per sequence (`nll_per`). The paper's lambda is TRL's and our beta. Odds
are of the mean log-probability per response token.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.functional.pairwise import log_odds, logistic


def odds_ratio_loss(policy: PairLogps) -> Tensor:
    """Negative log-sigmoid of the log odds ratio between chosen and rejected.

    Args:
        policy: summed log-probabilities and lengths, each [B], nats and tokens, with gradient.

    Returns:
        [B] losses, nats; finite, as is the gradient, for probabilities up to 1.
    """
    mean = policy.mean()
    return logistic(log_odds(mean.chosen) - log_odds(mean.rejected))


class ORPO(PairwiseModule):
    """Odds Ratio Preference Optimization.

    Args:
        beta: weight of the odds-ratio term (the paper's lambda).
        nll_tokens: which tokens the NLL term covers: response_only, or prompt_and_response as in the authors' code.
        nll_per: tokens: mean over all tokens of the batch; examples: mean over sequences of their token means.
        learning_rate: peak learning rate.
    """

    needs_reference = False

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
        self.beta = beta
        self.nll_tokens = nll_tokens
        self.nll_per = Per(nll_per)

    @property
    def score_prompts(self) -> bool:
        """Whether batches also score the tokens of the prompt."""
        return self.nll_tokens == "prompt_and_response"

    def losses(self, policy: PairLogps, reference: PairLogps) -> dict[str, Term]:
        """NLL of the chosen responses and the weighted odds-ratio term, each [B], nats."""
        nll, length = -policy.chosen, policy.chosen_lengths
        if policy.prompt is not None and policy.prompt_lengths is not None:
            nll, length = nll - policy.prompt, length + policy.prompt_lengths
        if self.nll_per is Per.EXAMPLES:
            nll = nll / length.clamp(min=1)
        return {"nll": Term(nll, self.nll_per), "odds_ratio": Term(self.beta * odds_ratio_loss(policy))}

    def rewards(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """Rewards of chosen and rejected, each [B]: beta times the mean log-probability per token, as TRL logs them."""
        mean = policy.mean()
        return self.beta * mean.chosen, self.beta * mean.rejected

    def metrics(self, policy: PairLogps) -> dict[str, Tensor]:
        """TRL's `log_odds_chosen`, the log odds ratio, and `log_odds_ratio`, its log-sigmoid; each [B], nats."""
        mean = policy.mean()
        return {
            "log_odds_chosen": log_odds(mean.chosen) - log_odds(mean.rejected),
            "log_odds_ratio": -odds_ratio_loss(policy),
        }
