"""A causal language model one step further: tokens in, next logits and the longer cache out."""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_REPEATED = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of a cache whose rows can be repeated. Their subclasses hold more than keys and values."""


class Prompts(NamedTuple):
    """Prompts padded on the left."""

    ids: Tensor
    """[P, L] int64."""
    mask: Tensor
    """[P, L] int64, 1 where a token is."""

    @classmethod
    def padded(cls, prompts: list[list[int]], pad: int, device: torch.device) -> Prompts:
        """Pad prompts to the length of the longest."""
        width = max(map(len, prompts))
        ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return cls(torch.tensor(ids, device=device), torch.tensor(mask, device=device))

    def repeated(self, repeats: int) -> Prompts:
        """Each prompt several times in a row."""
        return Prompts(self.ids.repeat_interleave(repeats, 0), self.mask.repeat_interleave(repeats, 0))


def base_of(model: Any) -> Any:
    """The Hugging Face model in a PEFT model; adapters are part of it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def can_share(model: Any) -> bool:
    """Whether the model's memory of a prompt is a cache of keys and values, so that it can be repeated."""
    base = base_of(model)
    if getattr(base, "_is_stateful", False) or not base._supports_default_dynamic_cache():
        return False
    return all(type(layer) in _REPEATED for layer in _fresh_cache(base).layers)


def _fresh_cache(base: Any) -> DynamicCache:
    return DynamicCache(config=base.config.get_text_config(decoder=True))


def step(model: nn.Module, ids: Tensor, mask: Tensor, cache: DynamicCache | None) -> tuple[Tensor, DynamicCache]:
    """Run tokens through a model.

    Args:
        model: as Hugging Face knows it, of those that `can_share`.
        ids: [B, n] new tokens.
        mask: [B, m + n] int64, 1 where a token is, of those in the cache as well.
        cache: of m tokens; it grows by the new ones. None: of none.

    Returns:
        Logits [B, V] behind the last token, and the cache.
    """
    base = base_of(model)
    accepted = inspect.signature(base.forward).parameters
    extra: dict[str, Any] = {}
    if "position_ids" in accepted:
        extra["position_ids"] = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -ids.shape[1] :]
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = 1
    inputs = base.prepare_inputs_for_generation(
        ids,
        attention_mask=mask,
        past_key_values=_fresh_cache(base) if cache is None else cache,
        use_cache=True,
        is_first_iteration=cache is None,
        **extra,
    )
    output = base(**inputs, return_dict=True)
    return output.logits[:, -1], output.past_key_values


class Prefix:
    """Keys and values of prompts without their last tokens, computed once for all samples.

    The last token goes through the model with the samples, since it is its logits that they begin with.

    Args:
        model: of those that `can_share`.
        prompts: at least two tokens wide.
    """

    def __init__(self, model: nn.Module, prompts: Prompts) -> None:
        _, self.cache = step(model, prompts.ids[:, :-1], prompts.mask[:, :-1], None)

    def repeated(self, repeats: int, *, again: bool) -> DynamicCache:
        """A cache for several samples of each prompt, to be gone on with.

        Args:
            repeats: rows of each prompt, one behind the other.
            again: the prefix will be asked for another one.
        """
        cache = copy.deepcopy(self.cache) if again else self.cache
        cache.batch_repeat_interleave(repeats)
        return cache
