"""iLR-DPO: Liu et al. 2024, "Iterative Length-Regularized Direct Preference Optimization: A Case Study on Improving 7B
Language Models to GPT-4 Level".

https://arxiv.org/abs/2406.11817, the loss of R-DPO (DPO's Eq. 7 with a price of length) in rounds. In each round the
present policy answers every prompt several times, a reward model scores the answers, the best and the worst become a
pair (none where they are equal), and the policy is trained on these pairs with itself at the start of the round as the
reference.

This class is the training of one round: `data.convert: best_worst` makes the pairs from ranked responses, and the
policy that the last round has written is given as `model.policy`, which makes it the reference too. Sampling and
scoring, and the loop over rounds, are the callback `IterativeDPO`.

Differs: alpha could not be checked against the paper; 0.02 is ours. Watch the mean length between the rounds: an alpha
that is too large ends in empty answers.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods.r_dpo import LengthRegularizedDPO


class IterativeLRDPO(LengthRegularizedDPO):
    """A round of iterative length-regularized DPO.

    When: a reward model scores your policy's own answers round by round, and answers must not grow longer.

    Args:
        beta: KL strength; larger stays closer to the round's first policy.
        alpha: discount per token; 0 is iterative DPO.
    """

    def __init__(self, *, beta: float = 0.1, alpha: float = 0.02, **kwargs: Any) -> None:
        super().__init__(beta=beta, alpha=alpha, **kwargs)
