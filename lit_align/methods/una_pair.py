"""UNA, pairs: Wang et al. 2024, "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward
Function".

https://arxiv.org/abs/2408.15339. For pairs the objective is DPO's (Rafailov et al. 2023, Eq. 7), with beta 0.03: the
difference of implicit rewards, beta * log(policy / reference), is fitted to the preference. `una_binary.py` and
`una_score.py` fit the same reward to labels and to scores.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods.dpo import DPO


class UNAPair(DPO):
    """Unified Alignment from pairs.

    When: pairs are to be compared with labels or scores under one objective.

    Args:
        beta: KL strength; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
        learning_rate: peak learning rate.
    """

    def __init__(
        self, *, beta: float = 0.03, label_smoothing: float = 0.0, learning_rate: float = 5e-6, **kwargs: Any
    ) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing, learning_rate=learning_rate, **kwargs)
