"""Text from two models at once: their logits are mixed token by token.

Algorithm of https://arxiv.org/abs/2409.19605 ("The Crucial Role of Samplers in Online DPO", its practical version): the
posterior policy^a * reference^b becomes a * policy's logits + b * reference's logits, before the temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import finite
from lit_align.references.base import Reference
from lit_align.rollouts.stepping import Prompts, base_of, can_share, step


class LogitMix(NamedTuple):
    """What a second model has to say in each token; cut-offs such as `top_p` go by the policy alone.

    Completions' log-probabilities stay those of the policy: a method must not train with the mixture's.
    """

    model: nn.Module
    """A `Scorer`, or a Hugging Face or PEFT causal language model with the policy's vocabulary."""
    policy_weight: float = 1.5
    """Factor of the policy's logits."""
    weight: float = -0.5
    """Factor of the second model's logits."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered for each of the second model's forward passes; a policy whose adapters it takes off is a second model."""

    @classmethod
    def with_reference(cls, reference: Reference, *, policy_weight: float = 1.5, weight: float = -0.5) -> LogitMix:
        """A mixture with a method's reference.

        Args:
            reference: any that has a model.
            policy_weight: factor of the policy's logits.
            weight: factor of the reference's logits.

        Raises:
            ConfigError: it has none.
        """
        model, within = reference.model_within()
        return cls(model, policy_weight, weight, within)

    def check(self) -> Any:
        """The second model as Hugging Face knows it.

        Raises:
            ConfigError: it, or a weight, cannot be used.
        """
        finite("policy_weight", self.policy_weight)
        finite("weight", self.weight)
        model: Any = self.model.model if hasattr(self.model, "plain") else self.model
        if not hasattr(base_of(model), "generate") or not can_share(model):
            raise ConfigError(
                "this model cannot have a say in another one's words",
                got=type(base_of(model)).__name__,
                fix="mix with a causal language model that has a cache of keys and values",
            )
        return model


def mixed(policy: Tensor, other: Tensor, mix: LogitMix) -> Tensor:
    """Mixed logits [B, V], float32 or better; what either model rules out stays out.

    Args:
        policy: [B, V] the policy's logits.
        other: [B, V] the second model's.
        mix: the weights.
    """
    logits = mix.policy_weight * policy.to(torch.promote_types(policy.dtype, torch.float32)) + mix.weight * other
    return logits.masked_fill((policy == -torch.inf) | (other == -torch.inf), -torch.inf)


class Mixer:
    """The second model while a batch is generated, with a cache of its own.

    Args:
        mix: model and weights.
        model: the model as Hugging Face knows it.
        prompts: of the batch, each once.
        repeats: samples of each prompt, one behind the other.
    """

    def __init__(self, mix: LogitMix, model: nn.Module, prompts: Prompts, repeats: int) -> None:
        self.mix, self.model, self.prompts, self.repeats = mix, model, prompts, repeats
        self._cache: DynamicCache | None = None
        self._mask = prompts.mask.repeat_interleave(repeats, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mixed logits [B, V].

        Args:
            input_ids: [B, L] prompts and what follows them so far.
            scores: [B, V] the policy's logits.

        Raises:
            ConfigError: the models have different vocabularies.
        """
        with self.mix.within():
            if self._cache is None:
                logits, self._cache = step(self.model, self.prompts.ids, self.prompts.mask, None)
                self._cache.batch_repeat_interleave(self.repeats)
                logits = logits.repeat_interleave(self.repeats, 0)
            else:
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
                logits, self._cache = step(self.model, input_ids[:, -1:], self._mask, self._cache)
        if logits.shape != scores.shape:
            raise ConfigError(
                "models whose logits are mixed need the same vocabulary",
                got=f"{scores.shape[-1]} and {logits.shape[-1]} tokens",
                fix="mix with a model of the same family, such as the one that training began with",
            )
        return mixed(scores, logits.to(scores.device), self.mix)
