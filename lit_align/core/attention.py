"""Attention over segments of one flat row: each sees its prefix and itself, by gathered keys and values.

The function registers with transformers under `SEGMENT_ATTENTION`, without a mask function, so that no mask is
ever built; which segment sees what arrives with each call as the keyword argument `segments`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from lit_align.core.architectures import resolve_layout, supports_segments
from lit_align.core.batch import Segments
from lit_align.core.errors import ConfigError

__all__ = ["SEGMENT_ATTENTION", "resolve_layout", "segment_attention", "set_backend", "supports_segments"]

SEGMENT_ATTENTION = "lit_align_segments"

Backend = Literal["auto", "varlen", "sdpa", "eager"]
_backend: Backend = "auto"

_LARGEST_CACHED_MASK = 64 * 2**20
_MAX_FLASH_HEAD_DIM = 256


def set_backend(backend: Backend) -> None:
    """Chooses how segments are computed, for benchmarks and tests; `auto` is right for everything else.

    Args:
        backend: `varlen` is one flash-attention call for all segments (falls back to `sdpa` where it cannot
            serve), `sdpa` and `eager` are one call per segment. Soft-caps and sinks are always `eager`.
    """
    global _backend
    if backend not in get_args(Backend):
        raise ConfigError(
            "Unknown attention backend.", got=repr(backend), fix=f"Use one of {', '.join(get_args(Backend))}."
        )
    _backend = backend


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends within segments; has the signature that transformers' attention interface wants.

    Args:
        module: the attention layer.
        query: [1, heads, T, D].
        key: [1, key heads, T, D].
        value: [1, key heads, T, Dv].
        attention_mask: must be None.
        dropout: probability of dropping an attention weight.
        scaling: factor of the scores; 1 / sqrt(D) by default.
        segments: who sees whom.
        sliding_window: number of keys that a query sees, its own included.
        softcap: bound of the scores.
        s_aux: [heads], logits of attention sinks.
        kwargs: what else the model passes on; a bias of positions is refused.

    Returns:
        [1, T, heads, Dv], and None for the attention weights.

    Raises:
        ConfigError: the model asks for something that has no meaning here.
    """
    _check(module, attention_mask, segments, kwargs)
    assert segments is not None
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    eager = _backend == "eager" or softcap is not None or s_aux is not None
    if not eager and _backend != "sdpa" and dropout == 0.0:
        options = _varlen_options(query, key, value, scaling, sliding_window)
        if options is not None:
            return _attend_varlen(query, key, value, segments, options), None
    part: _Part = _SdpaPart(scaling, dropout, sliding_window)
    if eager:
        part = _EagerPart(scaling, dropout, sliding_window, softcap, s_aux)
    return _attend_parts(query, key, value, segments, part), None


AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)


def _check(module: nn.Module, attention_mask: Tensor | None, segments: Segments | None, kwargs: dict[str, Any]) -> None:
    name = type(module).__name__
    if segments is None:
        raise ConfigError(
            "The model was called directly while its attention is set up for packed rows.",
            got=f"{name} received no segments",
            fix="Score with `Scorer(rows)`, and generate inside `with scorer.plain():`. If it was a Scorer that "
            "called, this architecture drops keyword arguments: set `layout: padded`.",
        )
    unusable = [k for k in ("position_bias", "head_mask") if kwargs.get(k) is not None]
    if attention_mask is not None:
        unusable.append("attention_mask")
    if kwargs.get("is_causal") is False:
        unusable.append("is_causal=False")
    if unusable:
        raise ConfigError(
            "The model's attention uses something that packed rows cannot express.",
            got=f"{name} passed {', '.join(unusable)}",
            fix="Set `layout: padded`.",
        )


def _attend_parts(query: Tensor, key: Tensor, value: Tensor, segments: Segments, part: _Part) -> Tensor:
    """One attention call per segment."""
    # Slices of the row would each get a gradient as long as the row; the pieces of a split share one.
    lengths = [end - start for start, end, _, _ in segments.plan]
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    number_at = {start: number for number, (start, _, _, _) in enumerate(segments.plan)}
    outputs = []
    for own, (_, _, prefix_start, prefix_end) in enumerate(segments.plan):
        k, v = keys[own], values[own]
        if prefix_end > prefix_start:
            # A prefix is the beginning of the segment that stands where it starts.
            first = number_at[prefix_start]
            # With a window, keys before that are out of sight even of the first query.
            start = 0 if part.window is None else max(0, prefix_end - prefix_start - (part.window - 1))
            seen = slice(start, prefix_end - prefix_start)
            k, v = (torch.cat([states[first][:, :, seen], states[own]], dim=2) for states in (keys, values))
        outputs.append(part(queries[own], k, v).transpose(1, 2))
    return torch.cat(outputs, dim=1)


class _Part(ABC):
    """Attention of queries to keys that end where the queries end."""

    def __init__(self, scaling: float, dropout: float, window: int | None) -> None:
        self.scaling, self.dropout, self.window = scaling, dropout, window

    @abstractmethod
    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, heads, Q, D] and [1, key heads, K, D] to [1, heads, Q, Dv]."""

    def mask(self, query: Tensor, key: Tensor) -> Tensor:
        """[Q, K] bool, True where a query sees a key."""
        return _lower_right(query.shape[2], key.shape[2], self.window, query.device)


class _SdpaPart(_Part):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length = query.shape[2]
        causal = key.shape[2] == length and (self.window is None or length <= self.window)
        grouped = key.shape[1] != query.shape[1]
        if grouped and query.is_cuda and not causal:
            # With a mask CUDA has no fast kernel for grouped heads.
            key, value = _repeat_heads(key, query), _repeat_heads(value, query)
            grouped = False
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if causal else self.mask(query, key),
            dropout_p=self.dropout,
            is_causal=causal,
            scale=self.scaling,
            enable_gqa=grouped,
        )


class _EagerPart(_Part):
    def __init__(
        self,
        scaling: float,
        dropout: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> None:
        super().__init__(scaling, dropout, window)
        self.softcap, self.sinks = softcap, sinks

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ _repeat_heads(key, query).transpose(-1, -2) * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores.masked_fill(~self.mask(query, key), float("-inf"))
        if self.sinks is not None:
            # A sink takes part in the softmax and contributes no value.
            sinks = self.sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)
        precise = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=precise).to(query.dtype)[..., : key.shape[2]]
        weights = torch.dropout(weights, self.dropout, train=self.dropout > 0)
        return weights @ _repeat_heads(value, query)


def _repeat_heads(states: Tensor, query: Tensor) -> Tensor:
    """Repeats key heads [1, key heads, K, D] until each query head has its own."""
    groups = query.shape[1] // states.shape[1]
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


_masks: dict[tuple[int | None, torch.device], Tensor] = {}


def _lower_right(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Causal mask [queries, keys] whose last query sees the last key.

    Whether a query sees a key depends on their distance only, so every mask is a cut of one large one.
    """
    prefix = keys - queries
    large = _masks.get((window, device))
    if large is None or large.shape[0] < queries or large.shape[1] - large.shape[0] < prefix:
        rows, columns = queries, prefix
        if large is not None:
            rows, columns = max(rows, large.shape[0]), max(columns, large.shape[1] - large.shape[0])
        rows, columns = _rounded(rows), _rounded(columns)
        if rows * (rows + columns) > _LARGEST_CACHED_MASK:
            return _build_lower_right(queries, prefix, window, device)
        large = _masks[window, device] = _build_lower_right(rows, columns, window, device)
    start = large.shape[1] - large.shape[0] - prefix
    return large[:queries, start : start + keys]


def _build_lower_right(queries: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    distance = torch.arange(queries, device=device)[:, None] - torch.arange(-prefix, queries, device=device)[None]
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def _rounded(length: int) -> int:
    """The next multiple of 256, so that masks do not grow token by token."""
    return -(-length // 256) * 256


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments, options: dict[str, Any]) -> Tensor:
    """One flash-attention call for all segments."""
    dtype = _compute_dtype(query)
    query, key, value = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    if segments.key_index.shape[0] != query.shape[0]:
        key, value = key.index_select(0, segments.key_index), value.index_select(0, segments.key_index)
    if query.shape[1] != key.shape[1] and not options.get("enable_gqa"):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    bounds = (segments.query_bounds, segments.key_bounds, segments.max_query, segments.max_key)
    output = varlen_attn(query, key, value, *bounds, **options)
    assert isinstance(output, Tensor)
    return output[None]


def _varlen_options(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
) -> dict[str, Any] | None:
    """Arguments for torch's variable-length attention, or None where it cannot serve."""
    if not _serves_varlen(query, value):
        return None
    known = _varlen_arguments()
    options: dict[str, Any] = {}
    if "window_size" in known:
        options["window_size"] = (-1, 0) if window is None else (window - 1, 0)
    elif "is_causal" in known and window is None:
        options["is_causal"] = True
    else:
        return None
    if "scale" in known:
        options["scale"] = scaling
    elif scaling != query.shape[-1] ** -0.5:
        return None
    if "enable_gqa" in known and key.shape[1] != query.shape[1]:
        options["enable_gqa"] = True
    return options


def _serves_varlen(query: Tensor, value: Tensor) -> bool:
    size = query.shape[-1]
    return (
        query.is_cuda
        and _compute_dtype(query) in (torch.float16, torch.bfloat16)
        and size % 8 == 0
        and size <= _MAX_FLASH_HEAD_DIM
        and value.shape[-1] == size
        and _has_flash_attention(query.device)
    )


@lru_cache
def _varlen_arguments() -> frozenset[str]:
    """What torch's function takes: 2.10 knows `is_causal` only, later ones a window, a scale and grouped heads."""
    return frozenset(inspect.signature(varlen_attn).parameters)


@lru_cache
def _has_flash_attention(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _compute_dtype(states: Tensor) -> torch.dtype:
    """The type that autocast would compute attention in; rotary embeddings leave float32 behind."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
