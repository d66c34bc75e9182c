"""Features of next-token distributions, one token after the other."""

from __future__ import annotations

import pytest
import torch

from lit_align.functional.token_features import Contrast, ForwardKL, LogCollision

POLICY = torch.tensor([[0.13, -0.13, 0.64], [0.1, -0.54, 0.36], [1.3, 0.95, -0.7]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.9, 0.09, -0.74], [-0.92, -0.46, 0.22], [-1.01, -0.21, -0.16]], dtype=torch.float64)
TOKENS = torch.tensor([2, 0, 1])


def test_the_divergence_is_of_the_reference_from_the_policy():
    """The authors of TDPO have 0.970736830244 for these three tokens."""
    logits = POLICY.clone().requires_grad_()
    log_reference = REFERENCE.log_softmax(-1)
    values = ForwardKL()(logits, TOKENS, log_reference)
    torch.testing.assert_close(values.sum().item(), 0.970736830244, rtol=1e-11, atol=0)
    values.sum().backward()
    torch.testing.assert_close(logits.grad, POLICY.softmax(-1) - log_reference.exp())
    assert ForwardKL()(REFERENCE, TOKENS, log_reference).abs().max() < 1e-15


TEACHER = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]], dtype=torch.float64)
STUDENT = torch.tensor([[1.0, 1.5, 0.0, -0.5, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("top_k", "value"), [(None, 0.2563496563), (2, 0.2485466605), (5, 0.2563496563), (50, 0.2563496563)]
)
def test_the_likeliest_tokens_and_all_others_as_one(top_k, value):
    """Context distillation's loss: a lower bound of the divergence, and the divergence where k is the vocabulary."""
    logits = STUDENT.clone().requires_grad_()
    divergence = ForwardKL(top_k)(logits, torch.tensor([0]), TEACHER.log_softmax(-1))
    assert divergence.item() == pytest.approx(value, abs=1e-10)
    divergence.sum().backward()
    teacher, student = TEACHER.softmax(-1), STUDENT.softmax(-1)
    if top_k == 2:
        # Within the rest, the student keeps the shares that it has.
        rest = student[:, 2:] / student[:, 2:].sum()
        teacher = torch.cat([teacher[:, :2], rest * teacher[:, 2:].sum()], -1)
    torch.testing.assert_close(logits.grad, student - teacher)
    assert ForwardKL(top_k)(TEACHER, torch.tensor([0]), TEACHER.log_softmax(-1)).abs().max() < 1e-15


def test_a_teacher_that_is_sure_has_a_finite_divergence():
    sure = torch.tensor([[100.0, 0.0, -100.0]])
    for top_k in (None, 1, 2):
        logits = -sure.clone().requires_grad_()
        divergence = ForwardKL(top_k)(logits, torch.tensor([0]), sure.log_softmax(-1))
        divergence.sum().backward()
        assert torch.isfinite(divergence).all()


def test_the_collision_is_that_of_two_draws_and_passes_no_gradient():
    """The authors of WPO have 0.0225392735237 for the mean difference from the tokens' own log-probabilities."""
    values = LogCollision()(POLICY.clone().requires_grad_(), TOKENS, None)
    assert not values.requires_grad
    own = POLICY.log_softmax(-1).gather(-1, TOKENS[:, None])[:, 0]
    torch.testing.assert_close((own - values).mean().item(), 0.0225392735237, rtol=1e-10, atol=0)
    torch.testing.assert_close(values.exp(), POLICY.softmax(-1).square().sum(-1))


def test_the_mean_contrast_is_that_of_many_draws():
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.0, 1.0]], dtype=torch.float64)
    many, target = logits.expand(20000, -1), torch.full((20000,), 1)
    torch.manual_seed(0)
    drawn = Contrast(3)(many, target, None)
    state = torch.get_rng_state()
    mean = Contrast(3, mean=True)(logits, target[:1], None)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.std() > 0.1
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.02)
    likeliest = torch.nn.functional.softplus(torch.tensor(0.5 - 2.0, dtype=torch.float64))
    assert Contrast(1, mean=True)(logits, target[:1], None).item() == pytest.approx(likeliest.item())
