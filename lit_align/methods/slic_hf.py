"""SLiC-HF: Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback".

https://arxiv.org/abs/2305.10425 (equation number not checked). The chosen response must be likelier than the rejected
one by a margin, in nats of whole responses and with no reference model; a cross entropy on a fixed text keeps the model
close to it.

Two variants, which differ in the data only. Direct: the pairs are those that people judged. Sample-rank: responses are
sampled from the fine-tuned model and ranked, and `data.convert: tournament_pairs` (a ranker) or `random_pairs` (a
reward model's scores) makes the pairs.

Differs: the paper's lambda is not reported; `reg_weight` is ours. The text to stay close to is the data's `target`, the
reference text of fine-tuning (the paper's default); where the data have none, or with `reg_target: chosen`, it is the
chosen response. With `reg_target: best`, the paper's other choice, it is the best of the ranked responses that
`data.convert` makes pairs of; pairs that were made before have to bring it as their `target`. HALOs adds a calibration
per response to a regulariser per token; here both are of whole responses. TRL's hinge loss has a reference and is
another method.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_align.core.demand import Demand
from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps, Term
from lit_align.core.ranges import not_negative


def calibration_loss(policy: PairLogps, delta: float) -> Tensor:
    """How much the chosen response's log-probability falls short of the rejected one's plus the margin.

    Args:
        policy: summed log-probabilities, each [B], nats, with gradient.
        delta: margin, >= 0, nats per response.

    Returns:
        [B] losses, nats; 0, without gradient, for a pair whose margin is reached.
    """
    return (delta - policy.margins).clamp(min=0)


class SLiCHF(PairwiseModule):
    """Sequence Likelihood Calibration with Human Feedback.

    When: there are reference texts to stay close to, or responses ranked by a model; no memory for a reference.

    Args:
        delta: margin by which the chosen response must be likelier, nats per response.
        reg_weight: weight of the cross entropy on the text to stay close to (the paper's lambda).
        reg_target: reference: the data's `target`, where there is one, else the chosen response; chosen: always that;
            best: the best of the ranked responses that the pair comes from; data that are pairs already must bring it
            as `target`.
        learning_rate: peak learning rate.
    """

    needs_reference = False
    reads_target = True

    def __init__(
        self,
        *,
        delta: float = 1.0,
        reg_weight: float = 0.1,
        reg_target: Literal["reference", "chosen", "best"] = "reference",
        learning_rate: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.delta = not_negative("delta", delta)
        self.reg_weight = not_negative("reg_weight", reg_weight)
        self.reg_target = reg_target
        self.best_is_target = reg_target == "best"

    @property
    def demands(self) -> tuple[Demand, ...]:
        """The best candidate, if it is to be stayed close to."""
        return (Demand("target"),) if self.best_is_target else ()

    def losses(self, policy: PairLogps, reference: PairLogps) -> dict[str, Term]:
        """Calibration of the pairs and the weighted cross entropy of the texts to stay close to, each [B], nats."""
        text = policy.chosen if self.reg_target == "chosen" else policy.close_to
        return {"calibration": Term(calibration_loss(policy, self.delta)), "nll": Term(-self.reg_weight * text)}
