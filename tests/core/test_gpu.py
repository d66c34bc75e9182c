"""On a GPU: one flash-attention call for all segments gives what separate calls and padded rows give."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from lit_align.core.attention import set_backend
from lit_align.core.batch import Example, Layout
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from tests.helpers import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _automatic_backend():
    yield
    set_backend("auto")


def examples() -> list[Example]:
    """Groups of two and three responses of unequal lengths."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for row, (prompt, lengths) in enumerate([(37, (31, 50)), (64, (12, 70, 9)), (5, (90, 2))]):
        first = torch.randint(3, 260, (prompt,), generator=generator).tolist()
        answers = [torch.randint(3, 260, (n,), generator=generator).tolist() for n in lengths]
        result.append(Example(row=row, ids=[first + a for a in answers], prompt_lengths=[prompt] * len(lengths)))
    return result


def run(model: torch.nn.Module, layout: Layout, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and the flat gradient of their weighted sum."""
    set_backend(backend)
    scorer = Scorer(copy.deepcopy(model))
    rows = move_data_to_device(build_rows(examples(), layout), next(model.parameters()).device)
    sums = scorer.sequence_logps(rows).sums
    weights = torch.linspace(-1, 1, len(sums), dtype=sums.dtype, device=sums.device)
    (sums * weights).sum().backward()
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in scorer.parameters()])
    return sums.detach().cpu(), gradient


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_varlen_attention_is_as_exact_as_padded_rows(dtype, window):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    exact = MistralForCausalLM(
        MistralConfig(
            vocab_size=264, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=window, max_position_embeddings=512,
        )
    ).double()  # fmt: skip
    truth, slope = run(exact, Layout.PADDED, "auto")
    half = copy.deepcopy(exact).to("cuda", dtype)
    errors = {}
    for name, layout, backend in (
        ("padded", Layout.PADDED, "auto"),
        ("packed", Layout.PACKED, "varlen"),
        ("shared", Layout.SHARED, "varlen"),
        ("parts", Layout.SHARED, "sdpa"),
    ):
        sums, gradient = run(half, layout, backend)
        errors[name] = (sums - truth).abs().max().item()
        assert torch.cosine_similarity(gradient, slope, dim=0) > 0.999, name
    for name in ("packed", "shared", "parts"):
        assert errors[name] < 3 * errors["padded"] + 1e-3, errors


def test_varlen_attention_is_what_runs(monkeypatch):
    from lit_align.core import attention

    calls = []
    original = attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", lambda *a, **k: calls.append(1) or original(*a, **k))
    run(tiny_model(hidden_size=64).to("cuda", torch.bfloat16), Layout.SHARED, "auto")
    assert calls


def test_float32_on_the_gpu_agrees_with_the_cpu():
    model = tiny_model()
    expected, slope = run(model, Layout.SHARED, "auto")
    for layout in Layout:
        sums, gradient = run(model.to("cuda"), layout, "auto")
        torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-2)
        assert torch.cosine_similarity(gradient, slope, dim=0) > 0.9999
