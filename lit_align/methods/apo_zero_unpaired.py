"""APO-zero, unpaired: D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions:
Addressing Underspecification in Alignment".

https://arxiv.org/abs/2408.06266, Eq. 7, a term for each response of a pair: here each term stands alone, so that
completions need no partner. It is KTO with 0 as its reference point: desirable completions become likelier than
they were, undesirable ones less likely, whatever the policy does elsewhere.

Differs: with as many desirable as undesirable completions the mean is half of what it is for pairs, as in TRL 1.16
(`apo_zero_unpaired`), since it is over completions.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods.kto import KTO


class APOZeroUnpaired(KTO):
    """Anchored Preference Optimization (zero) without pairs.

    When: feedback is thumbs up and down, and the desirable texts are better than what the model writes.

    Args:
        beta: KL strength; larger stays closer to the reference.
        desirable_weight: weight of desirable completions.
        undesirable_weight: weight of undesirable completions.
        learning_rate: peak learning rate.
    """

    needs_kl = False

    def __init__(
        self,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        learning_rate: float = 5e-7,
        **kwargs: Any,
    ) -> None:
        weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        super().__init__(beta=beta, learning_rate=learning_rate, **weights, **kwargs)
