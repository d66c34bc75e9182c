"""Log-probabilities of tokens from hidden states, without ever holding all logits.

With N tokens and a vocabulary of V, logits would take N x V numbers, often more than the rest of the model.
Here they exist one tile of tokens at a time, and the backward pass computes them again unless one tile held
them all. Where the head is frozen nothing is computed twice, because then the gradient of a log-probability with
respect to its hidden state does not depend on the loss and can be stored at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lit_align.functional.token_features import Distribution, TokenFeature

TILE_BYTES = {"cpu": 256 * 2**20, "cuda": 512 * 2**20}
"""Size of a tile of logits, by type of device; much smaller ones make the matrix products inefficient."""


class TokenStatistics(NamedTuple):
    """What the whole distribution looks like at each token, for logs; carries no gradient."""

    entropy: Tensor
    """[N] nats."""
    mean_logit: Tensor
    """[N], over the vocabulary."""
    correct: Tensor
    """[N] bool, whether the target is the likeliest token."""


class _Head(NamedTuple):
    """A linear map to logits: `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)`."""

    weight: Tensor
    """[V, H]."""
    bias: Tensor | None
    """[V]."""
    scale: float
    softcap: float | None

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Writes the logits of `hidden` [C, H] to `out` [C, V], in its precision."""
        if hidden.dtype == out.dtype:
            torch.mm(hidden, self.weight.t(), out=out)
        elif hidden.is_cuda:
            # Spares the logits a rounding to 16 bits, and a pass over them.
            torch.mm(hidden, self.weight.t(), out_dtype=out.dtype, out=out)
        else:
            out.copy_(torch.mm(hidden, self.weight.t()))
        if self.bias is not None:
            out.add_(self.bias)
        if self.scale != 1.0:
            out.mul_(self.scale)
        return out if self.softcap is None else out.div_(self.softcap).tanh_().mul_(self.softcap)

    def tiles(self, hidden: Tensor, tile: int) -> Iterator[tuple[slice, Tensor]]:
        """Yields runs of tokens with their logits; these are in one buffer, which the next run overwrites."""
        count = hidden.shape[0]
        room = hidden.new_empty(min(tile, count), self.weight.shape[0], dtype=_accumulation(hidden.dtype))
        for start in range(0, count, tile):
            run = slice(start, min(start + tile, count))
            yield run, self.logits(hidden[run], room[: run.stop - run.start])


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    tile: int | None = None,
) -> Tensor:
    """Log-probabilities of target tokens under a linear head.

    Args:
        hidden: [N, H] hidden states, with gradient.
        weight: [V, H] of the head, with gradient if it requires one.
        target: [N] int64, token ids.
        bias: [V], with gradient if it requires one.
        scale: factor of the logits.
        softcap: bound of the logits after scaling, `softcap * tanh(logits / softcap)`.
        tile: tokens whose logits are held at a time; by default as many as fit into `TILE_BYTES`.

    Returns:
        [N] nats, float32, or float64 for float64 input; differentiable once.
    """
    hidden, weight, bias = _matched(hidden, weight, bias)
    tile = tile or tile_size(weight.shape[0], hidden)
    trains_head = weight.requires_grad or (bias is not None and bias.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        if torch.is_grad_enabled() and trains_head:
            return _TrainedHead.apply(hidden, weight, bias, target, scale, softcap, tile)
        if torch.is_grad_enabled() and hidden.requires_grad:
            return _FrozenHead.apply(hidden, weight, bias, target, scale, softcap, tile)
        head = _Head(weight, bias, scale, softcap)
        logps = hidden.new_empty(hidden.shape[0], dtype=_accumulation(hidden.dtype))
        for run, logits in head.tiles(hidden.detach(), tile):
            logps[run] = _log_softmax(logits, target[run])
    return logps


def module_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    tile: int,
) -> Tensor:
    """Log-probabilities of target tokens under a head that is more than one matrix, as with an adapter.

    Calls the head once per tile of tokens, and once more in the backward pass.

    Args:
        head: maps [C, H] to [C, V] raw logits.
        hidden: [N, H], with gradient.
        target: [N] int64, token ids.
        scale: factor of the logits.
        softcap: bound of the logits after scaling.
        tile: tokens whose logits are held at a time.

    Returns:
        [N] nats, float32, or float64 for float64 input.
    """
    return token_values(head, hidden, target, (), None, scale=scale, softcap=softcap, tile=tile)[:, 0]


def token_values(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    target: Tensor,
    features: Sequence[TokenFeature],
    reference: Distribution | None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    tile: int,
) -> Tensor:
    """Log-probabilities of target tokens and features of the distributions that they come from.

    Calls the head once per tile of tokens, and once more in the backward pass.

    Args:
        head: maps [C, H] to [C, V] raw logits.
        hidden: [N, H], with gradient.
        target: [N] int64, token ids.
        features: what to compute besides, F of them.
        reference: the reference's distributions at the same tokens; needed if a feature needs it.
        scale: factor of the logits.
        softcap: bound of the logits after scaling.
        tile: tokens whose logits are held at a time.

    Returns:
        [N, 1 + F], float32, or float64 for float64 input: log-probabilities in nats, then the features in order.
    """
    compared = any(feature.needs_reference for feature in features)
    assert reference is not None or not compared, "a feature compares with a reference"

    def part(hidden: Tensor, target: Tensor, other: Tensor | None) -> Tensor:
        logits = raw_logits(head, hidden, scale, softcap)
        columns = [logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]]
        log_reference = None
        if other is not None and reference is not None:
            with torch.no_grad():
                log_reference = reference.logits(other).to(logits.dtype).log_softmax(-1)
        columns += [feature(logits, target, log_reference) for feature in features]
        return torch.stack(columns, -1)

    others = reference.hidden.split(tile) if compared and reference is not None else repeat(None)
    runs = zip(hidden.split(tile), target.split(tile), others)  # noqa: B905 - `repeat` has no end
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(part, *run, use_reentrant=False) for run in runs])
    return torch.cat([part(*run) for run in runs])


@torch.no_grad()
def token_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    tile: int,
) -> TokenStatistics:
    """Statistics of the distribution at each token: another pass over the vocabulary, so ask only to log them.

    Args:
        head: maps [C, H] to [C, V] raw logits.
        hidden: [N, H].
        target: [N] int64, token ids.
        scale: factor of the logits.
        softcap: bound of the logits after scaling.
        tile: tokens whose logits are held at a time.
    """
    parts = []
    for run, expected in zip(hidden.split(tile), target.split(tile), strict=True):
        logits = raw_logits(head, run, scale, softcap)
        mean_logit, correct = logits.mean(-1), logits.argmax(-1) == expected
        logps = torch.log_softmax(logits, -1, out=logits)
        parts.append(TokenStatistics(-(logps.exp() * logps).sum(-1), mean_logit, correct))
    return TokenStatistics(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def segment_sums(values: Tensor, response: Tensor, num: int) -> Tensor:
    """Sums values per response, in float64: a float32 sum over thousands of tokens is off by some 1e-4 nats.

    Args:
        values: [N, ...], with gradient.
        response: [N] int64 in 0..num-1, the response of each value.
        num: number of responses, M.

    Returns:
        [M, ...] float64; zero for a response without values.
    """
    sums = torch.zeros(num, *values.shape[1:], dtype=torch.float64, device=values.device)
    return sums.index_add(0, response, values.double())


def first_sums(values: Tensor, lengths: Tensor, which: Tensor, count: Tensor) -> Tensor:
    """Sums the first values of responses, in float64.

    Args:
        values: [N], those of response 0, then those of response 1, and so on; with gradient.
        lengths: [M] int64, values per response.
        which: [B] int64 in 0..M-1, responses.
        count: [B] int64, how many values of each to sum.

    Returns:
        [B] float64.
    """
    running = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    start = (lengths.cumsum(0) - lengths)[which]
    return running[start + count] - running[start]


def tile_size(vocabulary: int, hidden: Tensor) -> int:
    """Tokens whose logits fit into one tile on the device of `hidden`."""
    room = TILE_BYTES.get(hidden.device.type, TILE_BYTES["cuda"])
    return max(1, room // (vocabulary * _accumulation(hidden.dtype).itemsize))


class _TrainedHead(torch.autograd.Function):
    """Differentiable in the head as well; logits are computed twice unless one tile holds them all."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: float,
        softcap: float | None,
        tile: int,
    ) -> Tensor:
        logps = hidden.new_empty(hidden.shape[0], dtype=_accumulation(hidden.dtype))
        slopes = None
        for run, logits in _Head(weight, bias, scale, softcap).tiles(hidden, tile):
            if hidden.shape[0] <= tile:
                logps[run], slopes = _log_softmax_and_slopes(logits, target[run], softcap)
            else:
                logps[run] = _log_softmax(logits, target[run])
        ctx.save_for_backward(hidden, weight, bias, target, slopes)
        ctx.settings = scale, softcap, tile
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, slopes = ctx.saved_tensors
        scale, softcap, tile = ctx.settings
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = None
        grad_bias = torch.zeros_like(bias, dtype=grad.dtype) if needs_bias else None
        # Weighting rows of [N, H] is cheaper than weighting the slopes [C, V].
        factor = (-scale * grad)[:, None]
        weighted = (hidden * factor).to(hidden.dtype) if needs_weight else None

        def add(run: slice, slopes: Tensor) -> None:
            nonlocal grad_weight
            low = slopes.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(low, weight, out=grad_hidden[run])
            if weighted is not None:
                grad_weight = _add_product(grad_weight, low.t(), weighted[run], final=hidden.shape[0] <= tile)
            if grad_bias is not None:
                grad_bias.addmv_(slopes.t(), factor[run, 0])

        with torch.autocast(hidden.device.type, enabled=False):
            if slopes is not None:
                add(slice(0, hidden.shape[0]), slopes)
            else:
                for run, logits in _Head(weight, bias, scale, softcap).tiles(hidden, tile):
                    add(run, _log_softmax_and_slopes(logits, target[run], softcap)[1])
        if grad_hidden is not None:
            grad_hidden.mul_(factor)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


class _FrozenHead(torch.autograd.Function):
    """Differentiable in the hidden states only; logits are computed once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: float,
        softcap: float | None,
        tile: int,
    ) -> Tensor:
        logps = hidden.new_empty(hidden.shape[0], dtype=_accumulation(hidden.dtype))
        unit = torch.empty_like(hidden)
        for run, logits in _Head(weight, bias, scale, softcap).tiles(hidden, tile):
            logps[run], slopes = _log_softmax_and_slopes(logits, target[run], softcap)
            torch.mm(slopes.to(hidden.dtype), weight, out=unit[run])
        ctx.save_for_backward(unit)
        ctx.scale = scale
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (unit,) = ctx.saved_tensors
        return (unit * (-ctx.scale * grad)[:, None]).to(unit.dtype), None, None, None, None, None, None


def raw_logits(head: Callable[[Tensor], Tensor], hidden: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits [C, V] of any head, in the precision of sums."""
    logits = head(hidden)
    logits = scale * logits.to(_accumulation(logits.dtype))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _log_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities of the targets [C]; overwrites the logits [C, V]."""
    return torch.log_softmax(logits, -1, out=logits).gather(-1, target[:, None])[:, 0]


def _log_softmax_and_slopes(logits: Tensor, target: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """The same, and in place of the logits the derivative of -logp with respect to them before the soft-cap."""
    cap_slope = None if softcap is None else 1 - (logits / softcap).square_()
    logps = _log_softmax(logits, target)
    slopes = logits.exp_()
    slopes.scatter_add_(-1, target[:, None], slopes.new_full((len(target), 1), -1.0))
    return logps, slopes if cap_slope is None else slopes.mul_(cap_slope)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, *, final: bool) -> Tensor:
    """Adds `left @ right` to a total that is kept in float32 if there is more to come."""
    if final:
        return torch.mm(left, right)
    if total is None:
        total = left.new_zeros(left.shape[0], right.shape[1], dtype=_accumulation(left.dtype))
    if left.dtype == total.dtype:
        return total.addmm_(left, right)
    if left.is_cuda:
        return torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    return total.add_(torch.mm(left, right))


def _matched(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Casts to one type as a linear layer would: that of autocast where it is on, else that of the weight."""
    device, dtype = hidden.device.type, weight.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    """The type that logits and sums are held in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
