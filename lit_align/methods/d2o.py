"""D2O: Duan et al. 2024, "Negating Negatives: Alignment with Human Negative Samples via Distributional Dispreference
Optimization".

https://arxiv.org/abs/2403.03419 (equation number not checked). Needs no response that anyone has chosen: the model's
own samples, on average, are preferred to a response that people reject. The average anchors the model where it writes
well, so that moving away from harm does not ruin it.

Differs: the authors sample anew from the policy after a warm-up; here the samples are data. Of each list the response
of the lowest score is the rejected one and the others are samples. The rejected response may be compared with another
reference, a more harmless model (`positive_reference`), as in the paper.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_align.core.kinds import ListwiseModule, list_up
from lit_align.core.outputs import ListLogps
from lit_align.core.ranges import positive
from lit_align.functional.pairwise import logistic
from lit_align.references import OtherModel


def d2o_loss(samples: Tensor, rejected: Tensor, mask: Tensor, beta: float, alpha: float) -> Tensor:
    """Negative log-likelihood that the samples, on average, win against the rejected response.

    Args:
        samples: [B, K] log-ratios of the samples, nats, with gradient.
        rejected: [B] log-ratio of the rejected response, nats, with gradient.
        mask: [B, K] bool, which of the samples there are.
        beta: scale of the samples' rewards, per nat.
        alpha: scale of the rejected response's reward, per nat.

    Returns:
        [B] losses, nats.
    """
    mean = (samples * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return logistic(beta * mean - alpha * rejected)


class D2O(ListwiseModule):
    """Distributional Dispreference Optimization.

    When: people marked harmful answers only, and the model's own answers are good enough to stay near.

    Args:
        beta: scale of the rewards of the model's samples; larger stays closer to them.
        alpha: scale of the reward of the rejected response.
        positive_reference: folder or hub name of a more harmless model with the same vocabulary, which the rejected
            response is compared with; None: the reference of the samples. Costs a further set of weights.
    """

    def __init__(
        self, *, beta: float = 0.1, alpha: float = 0.1, positive_reference: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta = positive("beta", beta)
        self.alpha = positive("alpha", alpha)
        self.positive_reference = positive_reference
        self.positive: OtherModel | None = None

    def configure_model(self) -> None:
        """Build the policy and both references."""
        built = hasattr(self, "policy")
        super().configure_model()
        if built or self.positive_reference is None:
            return
        self.positive = OtherModel(self.positive_reference)
        self.positive.build(self.policy, self.policy_spec)
        if self._device_mesh is not None:
            self.positive.shard(self._device_mesh["data_parallel"])

    def facts(self, batch: Any) -> dict[str, Any]:
        """Log-probabilities under the other reference as well, if there is one."""
        if self.positive is None:
            return super().facts(batch)
        return super().facts(batch) | {"positive": list_up(self.positive.logps(batch.rows), batch)}

    def losses(
        self, policy: ListLogps, reference: ListLogps, scores: Tensor, positive: ListLogps | None = None
    ) -> Tensor:
        """Losses [B] of the lists, nats."""
        worst = policy.mask.sum(-1, keepdim=True) - 1
        samples = policy.mask.scatter(-1, worst, False)
        rejected = policy.logratios(reference if positive is None else positive).gather(-1, worst)[:, 0]
        return d2o_loss(policy.logratios(reference), rejected, samples, self.beta, self.alpha)
