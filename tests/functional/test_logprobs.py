"""The chunked head against `log_softmax` over all logits: values, gradients, types, memory and tile sizes."""

from __future__ import annotations

import itertools

import pytest
import torch

from lit_align.functional import logprobs
from lit_align.functional.logprobs import (
    module_logprobs,
    segment_sums,
    tile_size,
    token_logprobs,
    token_statistics,
)

N, H, V = 13, 6, 29


def problem(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(N, H, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, H, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    return hidden, weight, bias, torch.randint(0, V, (N,))


def oracle(hidden, weight, target, bias=None, scale=1.0, softcap=None):
    logits = (hidden @ weight.t() + (0 if bias is None else bias)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1)[torch.arange(len(target)), target]


SHAPES = [
    dict(zip(("bias", "scale", "softcap"), values, strict=True))
    for values in itertools.product((False, True), (1.0, 0.7), (None, 2.5))
]


@pytest.mark.parametrize("tile", [1, 4, N, 100])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_equal_plain_log_softmax(tile, shape, frozen):
    hidden, weight, bias, target = problem()
    weight.requires_grad_(not frozen)
    bias.requires_grad_(not frozen)
    settings = {**shape, "bias": bias if shape["bias"] else None}
    inputs = [x for x in (hidden, weight, settings["bias"]) if x is not None and x.requires_grad]
    upstream = torch.randn(N, dtype=torch.float64)

    expected = oracle(hidden, weight, target, **settings)
    actual = token_logprobs(hidden, weight, target, tile=tile, **settings)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(actual, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("tile", [5, N])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(tile, softcap):
    hidden, weight, bias, target = problem()

    def trained(hidden, weight, bias):
        return token_logprobs(hidden, weight, target, bias=bias, scale=1.3, softcap=softcap, tile=tile)

    def frozen(hidden):
        return trained(hidden, weight.detach(), bias.detach())

    assert torch.autograd.gradcheck(trained, (hidden, weight, bias))
    assert torch.autograd.gradcheck(frozen, (hidden,))


def test_only_a_bias_or_only_a_weight_can_be_trained():
    hidden, weight, bias, target = problem()
    for trained in (weight, bias):
        fixed = {id(weight): weight.detach(), id(bias): bias.detach(), id(trained): trained}
        w, b = fixed[id(weight)], fixed[id(bias)]
        ours = torch.autograd.grad(token_logprobs(hidden.detach(), w, target, bias=b, tile=4).sum(), trained)
        theirs = torch.autograd.grad(oracle(hidden.detach(), w, target, b).sum(), trained)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("frozen", [False, True])
def test_second_derivatives_are_refused(frozen):
    hidden, weight, _, target = problem()
    weight.requires_grad_(not frozen)
    (grad,) = torch.autograd.grad(token_logprobs(hidden, weight, target).square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("tile", [4, N])
@pytest.mark.parametrize("frozen", [False, True])
def test_backward_twice_through_one_graph(tile, frozen):
    hidden, weight, _, target = problem()
    weight.requires_grad_(not frozen)
    logps = token_logprobs(hidden, weight, target, tile=tile)
    first = torch.autograd.grad(logps.sum(), hidden, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(logps.sum(), hidden), first)


def test_without_gradient_nothing_is_recorded():
    hidden, weight, _, target = problem()
    with torch.no_grad():
        logps = token_logprobs(hidden, weight, target, tile=4)
    assert not logps.requires_grad
    torch.testing.assert_close(logps, oracle(hidden, weight, target).detach())
    assert not token_logprobs(hidden.detach(), weight.detach(), target).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_accumulated_in_float32(dtype):
    hidden, weight, bias, target = problem(torch.float32)
    low = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    exact = [x.detach().double().requires_grad_() for x in low]
    logps = token_logprobs(low[0], low[1], target, bias=low[2], tile=4)
    expected = oracle(exact[0], exact[1], target, exact[2])
    assert logps.dtype == torch.float32
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(logps.double(), expected, rtol=0, atol=20 * epsilon)
    for ours, theirs in zip(
        torch.autograd.grad(logps.sum(), low), torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=20 * epsilon * float(theirs.abs().max()))


def test_many_tiles_add_up_in_float32():
    """A bf16 sum over 4096 equal contributions would stop growing at 256."""
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(4096, dtype=torch.int64), tile=1).sum().backward()
    assert weight.grad.flatten().tolist() == [2048.0, -2048.0]


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    logps = token_logprobs(hidden, weight, torch.tensor([0, 0]))
    logps.sum().backward()
    assert logps.tolist() == [0.0, -2000.0]
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


def test_autocast_computes_like_a_linear_layer():
    hidden, weight, _, target = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logps = token_logprobs(hidden, weight, target, tile=5)
        linear = torch.nn.functional.linear(hidden, weight)
    assert linear.dtype == torch.bfloat16
    torch.testing.assert_close(logps, linear.float().log_softmax(-1)[torch.arange(N), target])
    logps.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_no_tokens():
    hidden, weight, _, _ = problem()
    logps = token_logprobs(hidden[:0], weight, torch.empty(0, dtype=torch.int64))
    assert logps.shape == (0,)
    logps.sum().backward()
    assert hidden.grad.abs().sum() == 0


def test_tiles_fit_their_budget():
    for dtype, size in ((torch.bfloat16, 4), (torch.float32, 4), (torch.float64, 8)):
        tokens = tile_size(50_000, torch.empty(0, dtype=dtype))
        assert tokens * 50_000 * size <= logprobs.TILE_BYTES["cpu"] < (tokens + 1) * 50_000 * size
    assert tile_size(10**12, torch.empty(0)) == 1


class LargestAllocation(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_larger_than_a_tile(frozen):
    tokens, vocabulary, tile = 512, 300, 16
    hidden = torch.randn(tokens, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=not frozen)
    with LargestAllocation() as largest:
        token_logprobs(hidden, weight, torch.zeros(tokens, dtype=torch.int64), tile=tile).sum().backward()
    assert largest.elements == tile * vocabulary


@pytest.mark.parametrize("shape", [{}, {"scale": 0.5, "softcap": 2.0}])
def test_any_module_can_be_the_head(shape):
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(H, 4), torch.nn.Tanh(), torch.nn.Linear(4, V)).double()
    hidden, _, _, target = problem()
    logits = head(hidden) * shape.get("scale", 1.0)
    if "softcap" in shape:
        logits = shape["softcap"] * torch.tanh(logits / shape["softcap"])
    expected = logits.log_softmax(-1)[torch.arange(N), target]
    actual = module_logprobs(head, hidden, target, tile=4, **shape)
    torch.testing.assert_close(actual, expected)
    inputs = [hidden, *head.parameters()]
    upstream = torch.randn(N, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )
    with torch.no_grad():
        torch.testing.assert_close(module_logprobs(head, hidden, target, tile=4, **shape), expected.detach())


def test_statistics():
    hidden, weight, bias, target = problem()
    logits = 3 * torch.tanh(0.8 * (hidden @ weight.t() + bias) / 3)
    head = torch.nn.Linear(H, V).double()
    head.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    target[0] = logits[0].argmax()
    statistics = token_statistics(head, hidden, target, scale=0.8, softcap=3.0, tile=4)
    assert torch.equal(statistics.correct, logits.argmax(-1) == target)
    torch.testing.assert_close(statistics.entropy, torch.distributions.Categorical(logits=logits).entropy().detach())
    torch.testing.assert_close(statistics.mean_logit, logits.mean(-1).detach())
    assert not statistics.entropy.requires_grad


def test_segment_sums_in_float64():
    values = torch.full((100_000,), -0.1)
    values[-1] = -1.0
    response = torch.zeros(100_000, dtype=torch.int64)
    response[-1] = 2
    sums = segment_sums(values.requires_grad_(), response, 3)
    assert sums.dtype == torch.float64
    expected = [99_999 * float(torch.tensor(-0.1)), 0.0, -1.0]
    torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    (sums * torch.tensor([1.0, 5.0, 3.0])).sum().backward()
    assert values.grad[0] == 1
    assert values.grad[-1] == 3
