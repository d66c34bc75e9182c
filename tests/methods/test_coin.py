"""CoIN's contrast: its gradient, and what it is over several ranks."""

from __future__ import annotations

import os

import torch
from torch import Tensor

import lit_align
from lit_align.core.batch import Counts
from lit_align.core.outputs import SequenceLogps, reduce_terms
from tests.launch import launch

SIZES = (3, 2)
"""Examples on each rank."""
SAME = torch.eye(5, dtype=torch.bool)
SAME[0, 4] = SAME[4, 0] = True


def tables() -> tuple[Tensor, Tensor]:
    """Vectors of the prompts [5, 4] and of their paraphrases."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return first.requires_grad_(), second.requires_grad_()


def loss_of(start: int, stop: int, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of some of the examples, with the gradients in all vectors."""
    first, second = tables()
    lengths = torch.tensor([2.0, 4.0, 3.0, 1.0, 6.0])
    sums = -torch.arange(1.0, 6, dtype=torch.float64)
    own = SequenceLogps(sums[start:stop], lengths[start:stop])
    terms = lit_align.CoIN(policy="unused", temperature=0.5, contrast_cap=cap).losses(
        own, own, first[start:stop], second[start:stop], SAME
    )
    loss = reduce_terms(terms, Counts(5, lengths.sum()))
    loss.backward()
    return loss.detach(), first.grad, second.grad


def rank_loss(cap: float) -> tuple[Tensor, Tensor, Tensor]:
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    start = sum(SIZES[:rank])
    return loss_of(start, start + SIZES[rank], cap)


def test_ranks_together_have_the_loss_and_the_gradient_of_one():
    for cap in (1000.0, 0.1):
        expected = loss_of(0, 5, cap)
        for whole, *parts in zip(expected, *launch(rank_loss, cap), strict=True):
            torch.testing.assert_close(sum(parts), whole, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_the_contrast_alone():
    """The weight, here the cap, is held constant; two prompts that are one do not contrast."""
    first, second = tables()
    loss, got_first, got_second = loss_of(0, 5, cap=0.1)
    likeness = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=-1) / 0.5
    total = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        partners = [j for j in range(5) if j == i or not SAME[i, j]]
        total = total + (likeness[i, partners].logsumexp(0) + likeness[partners, i].logsumexp(0)) / 2 - likeness[i, i]
    contrast = 0.1 * total / 5
    contrast.backward()
    torch.testing.assert_close(got_first, first.grad)
    torch.testing.assert_close(got_second, second.grad)
    assert loss > contrast
