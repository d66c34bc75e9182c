"""PRM: Lightman et al. 2023, "Let's Verify Step by Step".

https://arxiv.org/abs/2305.20050, Sec. 2 (equation number not checked); labels from rollouts Wang et al. 2023,
https://arxiv.org/abs/2312.08935. A token classifier that says after each step of a solution whether it is right. Errors
are found where they are made, and a solution that is right by luck is not rewarded.

The head has two outputs, of wrong and right, as TRL's process reward models have; the cross-entropy of their softmax is
that of the sigmoid of their difference, in which soft labels (shares of rollouts that end right) have a meaning too.

Differs: Lightman et al. label up to the first error (`until_first_error`), and multiply the steps' probabilities;
Math-Shepherd takes the worst (`aggregate: minimum`). TRL averages over all labelled steps of a batch, as here, unless
`per_solution` lets every solution count alike. Neutral steps, 0 among -1, 0 and 1, count as right unless `neutral` says
else.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.demand import Neutral, StepLabelling
from lit_align.core.kinds import StepRewardModule
from lit_align.core.kinds.verdicts import Aggregate
from lit_align.functional.rewards import soft_label_nll


class ProcessReward(StepRewardModule):
    """Process reward model.

    When: the steps of solutions are labelled, by people or by how often rollouts from there end right.

    Args:
        aggregate: score of a solution, of its steps' probabilities: product, minimum, last or mean. Long solutions
            have small products.
        last_only: learn from the last step only, whose label is then that of the outcome.
        until_first_error: learn from no step after the first wrong one.
        neutral: what a step counts as that is neither right nor wrong.
        per_solution: every solution counts alike, however many steps it has; otherwise every step does.
        learning_rate: peak learning rate.
    """

    def __init__(
        self,
        *,
        aggregate: Aggregate = "product",
        last_only: bool = False,
        until_first_error: bool = False,
        neutral: Neutral = "positive",
        per_solution: bool = False,
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.aggregate = aggregate
        self.step_labelling = StepLabelling(last_only, until_first_error, neutral)
        self.per_solution = per_solution

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses [N] of the labelled steps, nats."""
        return soft_label_nll(logits, labels)
