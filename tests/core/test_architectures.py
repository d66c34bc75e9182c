"""Padded, packed and shared rows give each architecture's own log-probabilities and gradients, or are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align.core.architectures import resolve_layout, supports_segments
from lit_align.core.batch import Layout
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from tests.core.oracle import KeepFloat64, assert_same_gradients, gradients, make_examples, plain_logps

VOCABULARY = 160
WINDOW = 12

TINY = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "head_dim": 4, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

SUPPORTED = {
    "llama": TINY,
    "llama tied": {**TINY, "tie_word_embeddings": True},
    "llama biased": {**TINY, "attention_bias": True, "mlp_bias": True},
    "mistral window": {**TINY, "sliding_window": WINDOW},
    "mixtral": {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": TINY,
    "qwen2 window": {**TINY, "use_sliding_window": True, **ALTERNATING},
    "qwen3": {**TINY, "head_dim": 16},
    "qwen3_moe": {**TINY, "num_experts": 4, **EXPERTS},
    "gemma2 window, soft-caps": {
        **TINY, **ALTERNATING, "head_dim": 8, "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text window": {**TINY, **ALTERNATING, "head_dim": 8, "query_pre_attn_scalar": 16},
    "gpt_oss window, sinks": {**TINY, **ALTERNATING, "head_dim": 8, "num_local_experts": 4},
    "phi3": TINY,
    "olmo": TINY,
    "olmo2": TINY,
    "olmo3 window": {**TINY, **ALTERNATING},
    "cohere scale": {**TINY, "logit_scale": 0.3},
    "cohere2 window": {**TINY, **ALTERNATING},
    "granite scale": {**TINY, "logits_scaling": 4.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5},
    "smollm3": {**TINY, "no_rope_layers": [1, 0]},
    "deepseek_v3 latent": {**TINY, **EXPERTS, **LATENT},
    "hyperclovax scale": {**TINY, "logits_scaling": 0.5},
    "gpt2": GPT2,
    "gpt_neox": {**TINY, "tie_word_embeddings": False},
}  # fmt: skip

REFUSED = {
    "llama4_text": (
        {**TINY, "attention_chunk_size": 16, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "chunked_attention",
    ),
    "lfm2": ({**TINY, "layer_types": ["conv", "full_attention"]}, "conv"),
    "qwen3_next": (
        {
            **TINY, **EXPERTS, "num_experts": 2, "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
        },
        "linear_attention",
    ),
    "falcon_h1": (
        {
            **TINY, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1,
            "mamba_d_state": 8, "mamba_chunk_size": 8, "lm_head_multiplier": 0.4,
        },
        "hybrid",
    ),
    "mamba": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "linear_attention",
    ),
    "bloom": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "attention interface",
    ),
    "mpt": (
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2},
        "attention interface",
    ),
    "stablelm": (TINY, "keyword arguments"),
    "nemotron": (TINY, "keyword arguments"),
}  # fmt: skip


def build(name, settings, dtype):
    # The grouped matrix products of experts know no float64.
    config = AutoConfig.for_model(name.split()[0], **settings, experts_implementation="eager")
    torch.manual_seed(0)
    # SDPA would leave out the bound on attention logits, and transformers before 5.21 choose it all the same.
    kernel = {"attn_implementation": "eager"} if "attn_logit_softcapping" in settings else {}
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, **kernel).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.train()


EXAMPLES = make_examples(VOCABULARY)


@pytest.mark.parametrize("name", SUPPORTED)
def test_all_layouts_equal_the_plain_model(name):
    """Float64 to 1e-9, in values and gradients, with windows that are shorter than the rows."""
    model = build(name, SUPPORTED[name], torch.float64)
    assert supports_segments(model.config) is None
    with KeepFloat64():
        expected, _ = plain_logps(model, EXAMPLES)
        reference = gradients(expected, model)
        for layout in Layout:
            actual = Scorer(model)(build_rows(EXAMPLES, layout))
            assert actual.dtype == torch.float64
            assert (actual - expected).abs().max() <= 1e-9, layout
            assert_same_gradients(gradients(actual, model), reference, 1e-9)


@pytest.mark.parametrize("name", SUPPORTED)
def test_all_layouts_equal_the_plain_model_in_float32(name):
    model = build(name, SUPPORTED[name], torch.float32)
    expected, _ = plain_logps(model, EXAMPLES)
    reference = gradients(expected, model)
    for layout in Layout:
        actual = Scorer(model)(build_rows(EXAMPLES, layout))
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert_same_gradients(gradients(actual, model), reference, 1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name_and_right_when_padded(name):
    settings, reason = REFUSED[name]
    config = AutoConfig.for_model(name, **settings)
    assert name in supports_segments(config)
    assert reason in supports_segments(config)
    assert resolve_layout("auto", config) is Layout.PADDED
    assert resolve_layout("padded", config) is Layout.PADDED
    for layout in (Layout.PACKED, Layout.SHARED, "shared"):
        with pytest.raises(ConfigError, match=name):
            resolve_layout(layout, config)

    model = build(name, settings, torch.float32).eval()
    with torch.no_grad():
        expected, _ = plain_logps(model, EXAMPLES)
        actual = Scorer(model)(build_rows(EXAMPLES, Layout.PADDED))
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "llama4_text"])
def test_the_self_check_would_stop_them(name):
    """Even without the names, on the first batch (a chunk of 8192 tokens is out of reach of a short check)."""
    model = build(name, REFUSED[name][0], torch.float32)
    with pytest.raises(ConfigError, match="layout: padded"):
        Scorer(model)(build_rows(EXAMPLES, Layout.SHARED))


def test_auto_shares_where_it_is_exact():
    config = AutoConfig.for_model("llama", **TINY)
    assert resolve_layout("auto", config) is Layout.SHARED
    assert resolve_layout("packed", config) is Layout.PACKED
    assert resolve_layout(Layout.SHARED, config) is Layout.SHARED


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("bert", {}, "left to right"),
        ("bart", {}, "left to right"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("gemma3", {}, "multimodal"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("rwkv", {}, "recurrent"),
        ("phimoe", {"sliding_window": 16, "max_position_embeddings": 64}, "window"),
        ("vit", {}, "not a causal language model"),
        ("doge", {}, "mask of its own"),
    ],
)
def test_reasons(name, settings, reason):
    assert reason in supports_segments(AutoConfig.for_model(name, **settings))
