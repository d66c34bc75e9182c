"""SPIN: Chen et al. 2024, "Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models".

https://arxiv.org/abs/2401.01335 (equation number not checked). A player learns to tell what people wrote from what its
own earlier self wrote: of each pair the chosen response is the demonstration, the rejected one a sample of the model at
the start of the round, which is the reference as well. The loss is a convex decreasing function of beta (the paper's
lambda) times the gap of log-ratios. What it cannot tell apart any more it has learnt.

This class is the training of one round, with the model that wrote the rejected responses as `model.policy` and hence as
the reference; the loop over rounds is a callback.

Differs: the paper allows any such function; the authors' code has the logistic one, which is DPO's loss, and a hinge,
which is `HingeDPO`'s. Here are the paper's other two as well. `correlation` has no lower bound: small learning rates
and few steps only. Beyond an exponent of 40 `exponential` goes on as its tangent, so that its gradient stays finite.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic

Decreasing = Literal["logistic", "hinge", "exponential", "correlation"]
LARGEST_EXPONENT = 40.0


def self_play_loss(margins: Tensor, shape: Decreasing) -> Tensor:
    """A convex decreasing function of how clearly the demonstration is told from the model's own response.

    Args:
        margins: [B], beta times the gap of log-ratios, nats, with gradient.
        shape: see `SelfPlay`.

    Returns:
        [B] losses; where policy and reference agree log 2 for the logistic function, else 1.
    """
    if shape == "logistic":
        return logistic(margins)
    if shape == "exponential":
        return (-margins).clamp(max=LARGEST_EXPONENT).exp() * (1 + (-margins - LARGEST_EXPONENT).relu())
    return (1 - margins).relu() if shape == "hinge" else 1 - margins


class SelfPlay(PairwiseModule):
    """Self-Play Fine-Tuning (SPIN).

    When: there are demonstrations and no preferences: pair each with the model's own response.

    Args:
        beta: strength of the pull to the model of the round's start; the authors raise it to 5 in the last round.
        shape: the convex decreasing function: logistic, hinge, exponential or correlation (1 - z).
    """

    def __init__(self, *, beta: float = 0.1, shape: Decreasing = "logistic", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.shape: Decreasing = shape

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs."""
        return self_play_loss(self.beta * policy.logratios(reference).margins, self.shape)
