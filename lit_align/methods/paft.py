"""PAFT: Pentyala et al. 2024, "PAFT: A Parallel Training Paradigm for Effective LLM Fine-Tuning".

https://arxiv.org/abs/2406.17923 (equation number not checked), on the likelihood of supervised fine-tuning, Eq. 1 of
Radford et al. 2018 (https://openai.com/index/language-unsupervised/). Fine-tuning and preference alignment start from
one base model, each with adapters of its own, and are merged afterwards, by `lit-align merge`. This is the fine-tuning:
an L1 penalty makes its change of the weights sparse, so that the two changes seldom get into each other's way. The
other half is DPO, or any method, with the LoRA callback.

Differs: the weight of the penalty could not be checked, the default is ours. The penalty is on the product of the
adapters' factors, the change of the weights itself; on the factors, which is cheaper, with `l1_on: factors`. Adam never
makes a number exactly 0: merging by `ties` cuts off what is small.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.outputs import SequenceLogps, Term
from lit_align.core.ranges import not_negative
from lit_align.methods.sft import SFT


def l1_norm(*deltas: Tensor) -> Tensor:
    """Sum of absolute values.

    Args:
        *deltas: changes of weights, any shapes, with gradient; 0 has the slope 0.

    Returns:
        Scalar float64.
    """
    return torch.stack([delta.abs().sum(dtype=torch.float64) for delta in deltas]).sum()


class SparseSFT(SFT):
    """Supervised fine-tuning with sparse adapters.

    When: fine-tuning and alignment are trained side by side from one base model, and merged with `lit-align merge`.

    Args:
        l1_weight: weight of the sum of absolute changes of weights (default ours).
        l1_on: product: the change of the weights, B times A; factors: the adapters' two matrices.
        reduction: tokens: every token weighs the same; sequences: every text does.
        learning_rate: peak learning rate.
    """

    requires = frozenset({Capability.ADAPTERS})

    def __init__(
        self,
        *,
        l1_weight: float = 1e-4,
        l1_on: Literal["product", "factors"] = "product",
        reduction: Literal["tokens", "sequences"] = "tokens",
        learning_rate: float = 2e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(reduction=reduction, learning_rate=learning_rate, **kwargs)
        self.l1_weight = not_negative("l1_weight", l1_weight)
        self.l1_on = l1_on

    def setup(self, stage: str) -> None:
        """Check that the adapters are whole on every device.

        Raises:
            ConfigError: they are sharded.
        """
        super().setup(stage)
        if stage == "fit" and isinstance(self.trainer.strategy, FSDP2Strategy):
            raise ConfigError(
                "SparseSFT adds up whole adapters", got="trainer.strategy: fsdp2", fix="use ddp, or one device"
            )

    def losses(self, policy: SequenceLogps) -> dict[str, Term]:
        """Losses [B] of the texts, nats, and the penalty, equal for each text so that their mean is the penalty."""
        terms = super().losses(policy)
        # Of adapted layers alone; their library takes a second to import, which is too long for a list of methods.
        norms = [self._norm(layer) for layer in self.modules() if hasattr(layer, "get_delta_weight")]
        if norms:
            terms["l1"] = Term((self.l1_weight * torch.stack(norms).sum()).expand(len(policy.sums)))
        return terms

    def _norm(self, layer: Any) -> Tensor:
        if self.l1_on == "factors":
            return l1_norm(*(weight for weight in layer.parameters() if weight.requires_grad))
        # Computed again in the backward pass: the products of all layers would be as large as the model.
        return cast(Tensor, checkpoint(lambda: l1_norm(layer.get_delta_weight("default")), use_reentrant=False))
