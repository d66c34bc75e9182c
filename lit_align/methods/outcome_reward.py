"""ORM: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems".

https://arxiv.org/abs/2110.14168, Sec. 4.2 (equation number not checked). A verifier that tells right solutions from
wrong ones by whether their final answers are right. It is trained at every token of the solution, which is the harder
and steadier task, and asked at the last one.

Differs: the paper's verifier also goes on with language modelling, by a head of its own; here is the verifier alone.
Its score lies between 0 and 1, here it is the log-odds, which rank alike.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods.binary_preference import BinaryPreference


class OutcomeReward(BinaryPreference):
    """Outcome reward model.

    When: it is known of whole solutions whether they are right, and a verifier is to choose among samples.

    Args:
        every_token: train at every token of the completion; False: at the last one only.
        learning_rate: peak learning rate.
    """

    def __init__(self, *, every_token: bool = True, learning_rate: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.every_token = every_token
