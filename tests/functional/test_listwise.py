"""Lists of unequal lengths: what stands in absent places has no effect, on any building block or method."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.kinds import as_terms
from lit_align.core.outputs import ListLogps
from lit_align.functional.listwise import better_than, differences, masked_log_softmax, ranks, soft_labels
from tests.cases import lists
from tests.cases.row import t

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
VALUES = t(0.5, -1.0, 2.0, 3.0, 7.0, 7.0, 1.0, 1.0, 9.0).reshape(3, 3)


def test_masked_log_softmax():
    result = masked_log_softmax(VALUES, MASK)
    torch.testing.assert_close(result[0], VALUES[0].log_softmax(-1))
    assert result[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(result[2], t(0.5, 0.5, 1.0).log())


def test_its_gradient_is_that_of_the_list_alone():
    padded, alone = VALUES[2:].clone().requires_grad_(), VALUES[2:, :2].clone().requires_grad_()
    masked_log_softmax(padded, MASK[2:])[0, 0].backward()
    alone.log_softmax(-1)[0, 0].backward()
    assert padded.grad.tolist() == [[*alone.grad[0].tolist(), 0.0]]


def test_soft_labels_sum_to_one_and_ties_share():
    labels = soft_labels(VALUES, MASK, 2.0)
    torch.testing.assert_close(labels.sum(-1), torch.ones(3, dtype=torch.float64))
    assert labels[1].tolist() == [1, 0, 0]
    assert labels[2].tolist() == [0.5, 0.5, 0]
    # Differences of tens of thousands of temperatures do not overflow.
    assert soft_labels(VALUES, MASK, 1e-4)[0].tolist() == [0, 0, 1]


def test_differences_and_better_than():
    assert differences(VALUES)[0].tolist() == [[0, 1.5, -1.5], [-1.5, 0, -3], [1.5, 3, 0]]
    assert better_than(VALUES, MASK).nonzero().tolist() == [[0, 0, 1], [0, 2, 0], [0, 2, 1]]


def test_ranks_are_stable_and_absent_places_come_last():
    assert ranks(VALUES, MASK).tolist() == [[2, 3, 1], [1, 2, 3], [1, 2, 3]]
    assert ranks(VALUES.clone().requires_grad_(), MASK).requires_grad is False


def padded(logps: ListLogps) -> ListLogps:
    """With two absent places."""
    more = torch.zeros(len(logps.sums), 2)
    return ListLogps(*(torch.cat([x, more.to(x.dtype)], -1) for x in logps))


@pytest.mark.parametrize("case", lists.CASES, ids=lambda case: case.slug)
def test_absent_places_change_no_method(case):
    for value in case.values:
        module = getattr(lit_align, case.name)(policy="unused", **value.kwargs)
        policy, reference, scores = value.inputs or case.inputs
        parts = []
        for change in (lambda x: x, padded):
            sums = policy.sums.clone().requires_grad_()
            wider = change(policy._replace(sums=sums)), change(reference)
            more = wider[0].sums.shape[-1] - scores.shape[-1]
            terms = as_terms(module.losses(*wider, torch.nn.functional.pad(scores, (0, more))))
            losses = torch.stack([term.values for term in terms.values()]).sum(0)
            losses.sum().backward()
            parts.append((losses.detach(), sums.grad))
        torch.testing.assert_close(parts[0], parts[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", lists.CASES, ids=lambda case: case.slug)
def test_lists_of_unequal_lengths_stand_beside_each_other(case):
    """The row's first list, and its first two responses as a list of their own."""
    module = getattr(lit_align, case.name)(policy="unused", **case.values[0].kwargs)
    policy, reference, scores = case.inputs
    short = [ListLogps(*(x[:, :2] for x in logps)) for logps in (policy, reference)]
    alone = [as_terms(module.losses(*inputs)) for inputs in ((policy, reference, scores), (*short, scores[:, :2]))]
    both = []
    for logps in (policy, reference):
        present = torch.cat([logps.mask, logps.mask & (torch.arange(logps.mask.shape[-1]) < 2)])
        both.append(ListLogps(*(torch.where(present, x.repeat(2, 1), torch.zeros_like(x)) for x in logps)))
    together = as_terms(module.losses(*both, torch.where(both[0].mask, scores.repeat(2, 1), 0.0)))
    for name, term in together.items():
        separate = torch.cat([terms[name].values for terms in alone])
        torch.testing.assert_close(term.values, separate, rtol=1e-12, atol=1e-12)


def test_equal_implicit_rewards_are_ranked_by_place():
    """LiPO learns from the first step, where policy and reference agree."""
    module = lit_align.LiPO(policy="unused", reward_temperature=None)
    logps = ListLogps(t(-3.0, -2.0, -4.0)[None], t(1, 1, 1)[None], torch.ones(1, 3, dtype=torch.bool))
    sums = logps.sums.clone().requires_grad_()
    module.losses(logps._replace(sums=sums), logps, t(0.9, 0.5, 0.1)[None]).sum().backward()
    assert sums.grad[0, 0] < 0 < sums.grad[0, 2]


def test_pro_does_not_count_responses_of_equal_reward():
    module = lit_align.PRO(policy="unused")
    sums = t(-1.0, -2.0, -3.0)[None].requires_grad_()
    logps = ListLogps(sums, t(1, 1, 1)[None], torch.ones(1, 3, dtype=torch.bool))
    losses = module.losses(logps, logps, t(1.0, 1.0, 1.0)[None])
    assert losses["ranking"].values.item() == pytest.approx(t(3.0 * 2.0).log().item())
    (gradient,) = torch.autograd.grad(losses["ranking"].values.sum(), sums)
    assert gradient.tolist() == [[0, 0, 0]]
