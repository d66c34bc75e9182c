"""Attention over segments against one dense mask, for every backend and option."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_align.core import attention
from lit_align.core.attention import SEGMENT_ATTENTION, segment_attention, set_backend
from lit_align.core.batch import Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.layout import build_rows

HEADS, KEY_HEADS, SIZE = 4, 2, 8
EXAMPLES = [
    Example(1, [[0] * 9 + [1] * 4, [0] * 9 + [1] * 7, [0] * 9 + [1]], [9, 9, 9]),
    Example(2, [[2] * 3], [1]),
    Example(3, [[3] + [4] * 12, [3] + [4] * 5], [1, 1]),
]


@pytest.fixture(autouse=True)
def _automatic_backend():
    yield
    set_backend("auto")
    attention._masks.clear()


def states(length, value_size=SIZE, key_heads=KEY_HEADS, dtype=torch.float64):
    torch.manual_seed(0)
    query = torch.randn(1, HEADS, length, SIZE, dtype=dtype, requires_grad=True)
    key = torch.randn(1, key_heads, length, SIZE, dtype=dtype, requires_grad=True)
    value = torch.randn(1, key_heads, length, value_size, dtype=dtype, requires_grad=True)
    return query, key, value


def visible(segments, window=None):
    """[T, T] bool, written out token by token: position on the path decides order and distance."""
    length = segments.plan[-1][1]
    mask = torch.zeros(length, length, dtype=torch.bool)
    for start, end, prefix_start, prefix_end in segments.plan:
        path = [*range(prefix_start, prefix_end), *range(start, end)]
        for q in range(prefix_end - prefix_start, len(path)):
            for k in range(q + 1):
                mask[path[q], path[k]] = window is None or q - k < window
    return mask


def dense(query, key, value, mask, scaling=None, softcap=None, sinks=None):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * (scaling or SIZE**-0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.exp() * mask
    total = scores.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().view(1, -1, 1, 1)
    return (scores / total @ value).transpose(1, 2)


OPTIONS = [
    {},
    {"scaling": 0.3},
    {"sliding_window": 5},
    {"sliding_window": 1},
    {"softcap": 0.7},
    {"s_aux": torch.linspace(-1, 2, HEADS, dtype=torch.float64)},
    {"sliding_window": 4, "softcap": 0.5, "s_aux": torch.zeros(HEADS, dtype=torch.float64)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
@pytest.mark.parametrize("backend", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("layout", [Layout.PACKED, Layout.SHARED])
def test_equals_one_dense_mask(layout, backend, options):
    set_backend(backend)
    segments = build_rows(EXAMPLES, layout).segments
    inputs = states(segments.plan[-1][1])
    output, weights = segment_attention(nn.Module(), *inputs, None, segments=segments, **options)
    expected = dense(
        *inputs,
        visible(segments, options.get("sliding_window")),
        options.get("scaling"),
        options.get("softcap"),
        options.get("s_aux"),
    )
    assert weights is None
    assert output.is_contiguous()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(output, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize(("key_heads", "value_size"), [(HEADS, SIZE), (1, SIZE), (HEADS, 5)])
def test_heads_and_sizes(backend, key_heads, value_size):
    set_backend(backend)
    segments = build_rows(EXAMPLES, Layout.SHARED).segments
    inputs = states(segments.plan[-1][1], value_size, key_heads)
    output, _ = segment_attention(nn.Module(), *inputs, None, segments=segments)
    torch.testing.assert_close(output, dense(*inputs, visible(segments)))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_dropout_drops_weights_and_keeps_the_mean(backend):
    set_backend(backend)
    segments = build_rows(EXAMPLES, Layout.SHARED).segments
    inputs = [state.detach() for state in states(segments.plan[-1][1])]
    exact, _ = segment_attention(nn.Module(), *inputs, None, segments=segments)
    draws = [segment_attention(nn.Module(), *inputs, None, 0.4, segments=segments)[0] for _ in range(600)]
    assert not torch.equal(draws[0], draws[1])
    assert (torch.stack(draws).mean(0) - exact).abs().mean() < 0.05


class Produced(TorchDispatchMode):
    """Counts the elements that operations write, views left out."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.elements += sum(x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor))
        return result


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_work_grows_with_the_row_and_not_with_its_square(backend):
    """Each slice of a row would get a gradient as long as the row: 100 segments would cost 100 rows."""
    set_backend(backend)
    per_token = []
    for repeats in (2, 20):
        segments = build_rows(EXAMPLES * repeats, Layout.SHARED).segments
        length = segments.plan[-1][1]
        with Produced() as produced:
            output, _ = segment_attention(nn.Module(), *states(length), None, segments=segments)
            output.sum().backward()
        per_token.append(produced.elements / length)
        attention._masks.clear()
    assert per_token[1] < 1.2 * per_token[0]


def by_hand(query, key, value, query_bounds, key_bounds, max_query, max_key, **options):
    """What torch's variable-length attention promises, in its layout [T, heads, D]."""
    by_hand.options = options
    left, right = options["window_size"]
    assert right == 0
    outputs = []
    for n in range(len(query_bounds) - 1):
        q, k = (slice(int(b[n]), int(b[n + 1])) for b in (query_bounds, key_bounds))
        queries, keys = q.stop - q.start, k.stop - k.start
        assert queries <= max_query
        assert keys <= max_key
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        mask = (distance >= 0) & ((distance <= left) | (left == -1))
        parts = (x.transpose(0, 1)[None] for x in (query[q], key[k], value[k]))
        outputs.append(dense(*parts, mask, options["scale"])[0])
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("layout", [Layout.PACKED, Layout.SHARED])
def test_the_call_to_variable_length_attention(monkeypatch, layout, window):
    """The kernel itself needs a GPU (tests/core/test_gpu.py); what it is handed does not."""
    monkeypatch.setattr(attention, "varlen_attn", by_hand)
    monkeypatch.setattr(attention, "_serves_varlen", lambda *states: True)
    monkeypatch.setattr(attention, "_varlen_arguments", lambda: frozenset({"window_size", "scale", "enable_gqa"}))
    segments = build_rows(EXAMPLES, layout).segments
    inputs = states(segments.plan[-1][1])
    output, _ = segment_attention(nn.Module(), *inputs, None, scaling=0.4, segments=segments, sliding_window=window)
    torch.testing.assert_close(output, dense(*inputs, visible(segments, window), 0.4))
    assert by_hand.options["enable_gqa"] is True


@pytest.mark.parametrize(
    ("known", "scaling", "window", "options"),
    [
        ({"is_causal"}, SIZE**-0.5, None, {"is_causal": True}),
        ({"is_causal"}, SIZE**-0.5, 5, None),
        ({"is_causal"}, 0.4, None, None),
        ({"window_size", "scale"}, 0.4, 5, {"window_size": (4, 0), "scale": 0.4}),
        ({"window_size", "scale", "enable_gqa"}, 0.4, None,
         {"window_size": (-1, 0), "scale": 0.4, "enable_gqa": True}),
    ],
)  # fmt: skip
def test_options_of_each_torch_version(monkeypatch, known, scaling, window, options):
    monkeypatch.setattr(attention, "_serves_varlen", lambda *states: True)
    monkeypatch.setattr(attention, "_varlen_arguments", lambda: frozenset(known))
    assert attention._varlen_options(*states(7), scaling, window) == options


def test_variable_length_attention_falls_back_on_the_cpu():
    segments = build_rows(EXAMPLES, Layout.SHARED).segments
    inputs = states(segments.plan[-1][1], dtype=torch.bfloat16)
    set_backend("sdpa")
    expected, _ = segment_attention(nn.Module(), *inputs, None, segments=segments)
    set_backend("varlen")
    output, _ = segment_attention(nn.Module(), *inputs, None, segments=segments)
    assert torch.equal(output, expected)


def test_masks_are_cuts_of_one_that_grows_and_is_bounded(monkeypatch):
    for queries, keys in [(3, 10), (300, 310), (2, 700), (5, 5)]:
        mask = attention._lower_right(queries, keys, 4, torch.device("cpu"))
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        assert torch.equal(mask, (distance >= 0) & (distance < 4))
    assert len(attention._masks) == 1
    (large,) = attention._masks.values()
    monkeypatch.setattr(attention, "_LARGEST_CACHED_MASK", large.numel())
    mask = attention._lower_right(5000, 5000, 4, torch.device("cpu"))
    assert torch.equal(mask.sum(-1), torch.arange(1, 5001).clamp(max=4))
    assert next(iter(attention._masks.values())) is large


def test_it_is_registered_without_a_mask_function():
    from transformers import AttentionInterface, AttentionMaskInterface

    assert AttentionInterface()[SEGMENT_ATTENTION] is segment_attention
    assert SEGMENT_ATTENTION not in AttentionMaskInterface().valid_keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segments": None}, "received no segments"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"is_causal": False}, "is_causal=False"),
    ],
)
def test_what_it_cannot_express_is_refused(arguments, message):
    segments = build_rows(EXAMPLES, Layout.SHARED).segments
    inputs = states(segments.plan[-1][1])
    with pytest.raises(ConfigError, match=message):
        segment_attention(nn.Module(), *inputs, None, **({"segments": segments} | arguments))
    with pytest.raises(ConfigError, match="attention_mask"):
        segment_attention(nn.Module(), *inputs, torch.ones(1, 1, 1, 1), segments=segments)


def test_unknown_backend():
    with pytest.raises(ConfigError, match="varlen"):
        set_backend("flash")
