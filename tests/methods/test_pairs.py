"""What single methods on pairs promise beyond what every method's row is put through."""

from __future__ import annotations

import math

import pytest
import torch

import lit_align
from lit_align.core.errors import ConfigError
from lit_align.core.outputs import PairLogps
from lit_align.methods import aot, aot_unpaired
from lit_align.methods.discopop import modulated_loss
from tests.cases.pairs import V3, scores
from tests.cases.row import P2, softplus, t


def method(name, **kwargs):
    return getattr(lit_align, name)(policy="unused", **kwargs)


def drawn(count: int, seed: int) -> tuple[PairLogps, PairLogps]:
    """Pairs of random log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    values = -20 * torch.rand(4, count, generator=generator, dtype=torch.float64)
    ones = torch.ones(count)
    return PairLogps(values[0], values[1], ones, ones), PairLogps(values[2], values[3], ones, ones)


def part(pairs: PairLogps, own: slice) -> PairLogps:
    """Some of the pairs, with gradient."""
    fields = {name: getattr(pairs, name)[own] for name in ("chosen_lengths", "rejected_lengths")}
    chosen, rejected = (side[own].detach().requires_grad_() for side in (pairs.chosen, pairs.rejected))
    return PairLogps(chosen, rejected, **fields)


# -------------------------------------------------------------------- ODPO


def test_odpo_takes_ties_where_it_needs_no_logarithm():
    facts = scores((0.5, 0.6), (0.5, 0.7))
    ours = method("ODPO", beta=0.1, offset="identity").losses(*P2, **facts)
    assert ours.tolist() == pytest.approx([softplus(-0.125), softplus(-0.1 + 0.1)])


# -------------------------------------------------------------------- DiscoPOP


def test_the_loss_of_discopop_has_a_hill():
    margins = torch.tensor([-3, -0.12, -0.117, 0.0, 0.071, 0.074, 3], dtype=torch.float64, requires_grad=True)
    modulated_loss(margins, 0.05).sum().backward()
    assert margins.grad.sign().tolist() == [-1, -1, 1, 1, 1, -1, -1]


# -------------------------------------------------------------------- AOT


@pytest.mark.parametrize("name", ["AOT", "AOTUnpaired"])
def test_aot_over_ranks_is_that_of_one_batch(name, monkeypatch):
    """Two ranks of unequal size, which see each other's values and not each other's gradient."""
    policy, reference = drawn(7, seed=0)
    whole = part(policy, slice(None))
    expected = method(name, beta=0.3, label_smoothing=0.1).losses(whole, reference)
    expected.sum().backward()
    everyone = {
        tuple(values[own].tolist()): (values, own)
        for own in (slice(0, 4), slice(4, 7))
        for values in (
            policy.margins,
            reference.margins,
            policy.logratios(reference).chosen,
            policy.logratios(reference).rejected,
        )
    }
    for module in (aot, aot_unpaired):
        monkeypatch.setattr(module, "over_ranks", lambda values: everyone[tuple(values.tolist())])
    for own in (slice(0, 4), slice(4, 7)):
        rank = part(policy, own)
        losses = method(name, beta=0.3, label_smoothing=0.1).losses(rank, part(reference, own))
        losses.sum().backward()
        torch.testing.assert_close(losses, expected[own])
        torch.testing.assert_close(rank.chosen.grad, whole.chosen.grad[own])
        torch.testing.assert_close(rank.rejected.grad, whole.rejected.grad[own])


@pytest.mark.parametrize("name", ["AOT", "AOTUnpaired"])
def test_aot_compares_within_the_batch(name):
    """What a pair is compared with depends on who else is there."""
    alone = [method(name).losses(*(part(side, slice(i, i + 1)) for side in V3)).item() for i in range(3)]
    assert method(name).losses(*V3).tolist() != pytest.approx(alone, rel=1e-3)


def test_aot_of_one_pair_is_dpo():
    one = tuple(part(side, slice(1)) for side in P2)
    for name in ("AOT", "AOTUnpaired"):
        assert method(name, beta=0.1).losses(*one).item() == pytest.approx(softplus(-0.125))


def test_unpaired_aot_does_not_see_who_is_paired_with_whom():
    policy, reference = drawn(6, seed=1)
    turned = [side._replace(rejected=side.rejected.roll(2)) for side in (policy, reference)]
    ours = method("AOTUnpaired").losses(policy, reference)
    torch.testing.assert_close(method("AOTUnpaired").losses(*turned), ours)


# -------------------------------------------------------------------- BCO


def test_the_mean_reward_of_bco_is_over_all_batches_and_left_alone_by_validation():
    module = method("BCOPair", beta=0.1)
    module.losses(*P2)
    module.losses(*V3)
    # Rewards: 0.05, -0.075, -0.075, 0.025 and 0.05, -0.05, -0.125, -0.05, -0.025, 0.15.
    assert module.delta.mean.item() == pytest.approx((-0.075 - 0.05) / 10)
    module.eval()
    ours = module.losses(*P2)
    assert module.delta.mean.item() == pytest.approx(-0.0125)
    expected = [softplus(-0.0625) + softplus(-0.0625), softplus(0.0625) + softplus(0.0375)]
    assert ours.tolist() == pytest.approx(expected)
    assert set(module.saved_names(["delta.mean", "delta.count"])) == {"delta.mean", "delta.count"}


def test_bco_without_shift_keeps_nothing():
    assert list(method("BCOPair", shift=False).buffers()) == []


# -------------------------------------------------------------------- DPO


def test_dpo_pushes_the_rejected_probability_harder_than_it_pulls_the_chosen_one():
    """By the quotient of the probabilities, here 6; the published vector of the 3D-properties."""
    chosen, rejected = t(0.3).requires_grad_(), t(0.05).requires_grad_()
    reference = PairLogps(t(0.12).log(), t(0.12).log(), t(1), t(1))
    method("DPO", beta=0.1).losses(PairLogps(chosen.log(), rejected.log(), t(1), t(1)), reference).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.151775156235, rel=1e-9)
    assert rejected.grad.item() == pytest.approx(0.910650937409, rel=1e-9)


# -------------------------------------------------------------------- where methods meet

SAME_AS_DPO = [
    ("RobustDPO", {"label_smoothing": 0.0}),
    ("RegularizedPO", {"eta": 0.0}),
    ("LengthRegularizedDPO", {"alpha": 0.0}),
    ("IterativeLRDPO", {"alpha": 0.0}),
    ("FDPO", {"divergence": "reverse_kl"}),
    ("TRDPO", {}),
]


@pytest.mark.parametrize(("name", "kwargs"), SAME_AS_DPO)
def test_limits_are_dpo(name, kwargs):
    terms = method(name, beta=0.3, **kwargs).losses(*V3)
    ours = sum(term.values for term in terms.values()) if isinstance(terms, dict) else terms
    torch.testing.assert_close(ours, method("DPO", beta=0.3).losses(*V3), rtol=1e-12, atol=0)


def test_alpha_divergences_lie_between_reverse_and_forward_kl():
    dpo, forward = (method("FDPO", divergence=name).losses(*V3) for name in ("reverse_kl", "forward_kl"))
    torch.testing.assert_close(method("FDPO", divergence="alpha", alpha=1e-7).losses(*V3), dpo, rtol=1e-6, atol=0)
    near_one = method("FDPO", divergence="alpha", alpha=1 - 1e-9).losses(*V3)
    torch.testing.assert_close(near_one, forward, rtol=1e-7, atol=0)


def test_robust_dpo_is_unbiased():
    """Over flips at the assumed rate its expectation is DPO's loss on the labels before them."""
    flipped = tuple(side._replace(chosen=side.rejected, rejected=side.chosen) for side in V3)
    module = method("RobustDPO", label_smoothing=0.3)
    expectation = 0.7 * module.losses(*V3) + 0.3 * module.losses(*flipped)
    torch.testing.assert_close(expectation, method("DPO").losses(*V3))


def test_robust_dpo_has_no_lower_bound():
    far = V3[0]._replace(chosen=V3[0].chosen + 1e4)
    # Per nat of margin it falls by beta * eps / (1 - 2 eps).
    losses = method("RobustDPO", beta=0.1, label_smoothing=0.1).losses(far, V3[1])
    assert losses.tolist() == pytest.approx([-0.1 / 0.8 * 0.1 * (1e4 + gap) for gap in (1, -0.25, -2.75)])


def test_exo_is_least_where_the_policy_believes_the_label():
    margin = math.log(0.9 / 0.1) / 0.5
    policy = PairLogps(t(margin).requires_grad_(), t(0.0), t(1), t(1))
    losses = method("EXO", beta=0.5, label_smoothing=0.1).losses(policy, PairLogps(t(0.0), t(0.0), t(1), t(1)))
    losses.sum().backward()
    assert losses.item() == pytest.approx(0, abs=1e-12)
    assert policy.chosen.grad.item() == pytest.approx(0, abs=1e-12)


def test_clipped_pairs_of_chipo_have_no_gradient():
    policy = part(V3[0], slice(None))
    method("ChiPO", beta=0.5, r_max=0.5).losses(policy, V3[1]).sum().backward()
    assert (policy.chosen.grad != 0).tolist() == [False, True, False]


def test_chipo_punishes_what_the_reference_hardly_covers():
    """Raising the rejected response's log-ratio costs more the higher it is, which in DPO it does not."""
    policy = PairLogps(t(0.0, 0.0), t(1.0, 4.0).requires_grad_(), t(1, 1), t(1, 1))
    method("ChiPO", beta=1e-3).losses(policy, PairLogps(t(0.0, 0.0), t(0.0, 0.0), t(1, 1), t(1, 1))).sum().backward()
    assert policy.rejected.grad[1] > 5 * policy.rejected.grad[0]


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("EXO", {"label_smoothing": 0.0}), ("EXO", {"label_smoothing": 0.5}), ("RobustDPO", {"label_smoothing": 0.5}),
        ("FDPO", {"alpha": 0.0}), ("FDPO", {"alpha": 1.0}), ("LDDPO", {"alpha": 1.5}), ("ChiPO", {"r_max": 0.0}),
        ("TDPO2", {"alpha": -0.1}), ("RegularizedPO", {"eta": -0.1}), ("ODPO", {"alpha": -1.0}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, kwargs):
    ((setting, value),) = kwargs.items()
    with pytest.raises(ConfigError, match=rf"(?s){setting}: {value}.*give a number"):
        method(name, **kwargs)
