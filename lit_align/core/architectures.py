"""Which architectures may have packed and shared rows, and which are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lit_align.core.batch import Layout
from lit_align.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_EXACT_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose tokens see nothing but the keys and values that a segment gathers."""

_REFUSED = {
    "doge": "builds a mask of its own",
    "nemotron": "does not hand keyword arguments on to its attention",
    "stablelm": "does not hand keyword arguments on to its attention",
}
"""Found by running every causal language model of transformers 5.23; the rest is recognised by its config."""

_WINDOW_IN_MASK_ONLY = frozenset({"olmoe", "phimoe"})
"""Their attention is not told about the sliding window, or is told about one that the mask lacks."""


def supports_segments(config: PretrainedConfig) -> str | None:
    """Says why packed and shared rows would be wrong for an architecture; None where they are exact.

    Args:
        config: of the model.
    """
    name = config.model_type
    # GPT-NeoX calls itself no decoder either, and is one.
    encoder = getattr(config, "is_decoder", None) is False and not name.startswith("gpt_neox")
    if encoder or config.is_encoder_decoder or not getattr(config, "is_causal", True):
        return f"{name} does not read from left to right only"
    if getattr(config, "use_bidirectional_attention", None):
        return f"{name} is set to bidirectional attention"
    if config.get_text_config() is not config:
        return f"{name} is multimodal: tokens of an image may see each other both ways"
    return _reason_in_config(config) or _reason_in_code(config)


def resolve_layout(requested: Layout | Literal["auto", "padded", "packed", "shared"], config: Any) -> Layout:
    """Decides how responses are laid out for a model.

    Args:
        requested: what the user asked for; `auto` is shared where that is exact, else padded.
        config: of the model.

    Raises:
        ConfigError: packed or shared rows for an architecture that would be wrong with them.
    """
    reason = supports_segments(config)
    if requested == "auto":
        return Layout.PADDED if reason else Layout.SHARED
    layout = Layout(requested)
    if reason and layout is not Layout.PADDED:
        raise ConfigError(
            f"The architecture cannot be trained with {layout.value} rows.",
            got=reason,
            fix="Set `layout: padded`, or leave it at `auto`.",
        )
    return layout


def _reason_in_config(config: PretrainedConfig) -> str | None:
    name = config.model_type
    if name in _REFUSED:
        return f"{name} {_REFUSED[name]}"
    window = getattr(config, "sliding_window", None)
    if name in _WINDOW_IN_MASK_ONLY and window and window < config.max_position_embeddings:
        return f"{name} keeps its sliding window in the mask only"
    odd = sorted(set(getattr(config, "layer_types", None) or []) - _EXACT_LAYERS)
    if odd:
        return f"{name} has layers of {', '.join(odd)}, which would see from one response into the next"
    if getattr(config, "attention_chunk_size", None):
        return f"{name} has chunked attention, which counts tokens of the row"
    if getattr(config, "alibi", False):
        return f"{name} has ALiBi, a bias of positions in the row"
    return None


def _reason_in_code(config: PretrainedConfig) -> str | None:
    name = config.model_type
    # Private by name, yet the one place that knows the class without building a model.
    from transformers import AutoModelForCausalLM

    model_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model_class is None:
        return f"{name} is not a causal language model of transformers"
    if getattr(model_class, "_is_stateful", False):
        return f"{name} has recurrent layers, whose state would run on from one response into the next"
    if not model_class._can_set_attn_implementation():
        return f"{name} does not use transformers' attention interface"
    return None


def needs_eager_attention(config: PretrainedConfig) -> bool:
    """Whether attention logits are bounded, which SDPA leaves out; transformers before 5.21 choose it all the same."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
