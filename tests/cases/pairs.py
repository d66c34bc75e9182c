"""Rows of the classic methods on pairs with a reference."""

from __future__ import annotations

from math import exp, log
from typing import Any

import torch

from lit_align.core.outputs import PairLogps, PairValues
from tests.cases.row import A3, P2, Case, Value, sigmoid, smooth, softplus, t

V3 = (
    PairLogps(t(-12.0, -8.5, -20.25), t(-11.0, -9.75, -18.0), t(4, 5, 8), t(4, 6, 9)),
    PairLogps(t(-12.5, -8.0, -19.0), t(-10.5, -9.5, -19.5), t(4, 5, 8), t(4, 6, 9)),
)
"""Three pairs; log-ratios 0.5, -0.5, -1.25 (chosen) and -0.5, -0.25, 1.5 (rejected), gaps 1, -0.25 and -2.75."""
W2 = (
    PairLogps(t(-4.5, -5.0), t(-5.0, -4.5), t(5, 3), t(3, 4), chosen_public=t(-1.75, -5), rejected_public=t(-5, -2.1)),
    PairLogps(t(-4.6, -4.7), t(-3.8, -4.0), t(5, 3), t(3, 4), chosen_public=t(-2, -4.7), rejected_public=t(-3.8, -2)),
)
"""Two pairs, with the sums over their first three tokens; log-ratio gaps 1.3 and 0.2."""


def from_logits(
    policy: list[list[list[float]]], reference: list[list[list[float]]], tokens: list[list[int]]
) -> tuple[tuple[PairLogps, PairLogps], PairValues, PairValues]:
    """One pair from the logits at its tokens, chosen first.

    Returns:
        Its log-probabilities under policy and reference; sums of KL(reference || policy); sums of the logarithm of the
        sum of squared probabilities.
    """
    lengths = [t(len(side)) for side in tokens]
    logps = [
        [torch.tensor(side, dtype=torch.float64).log_softmax(-1) for side in model] for model in (policy, reference)
    ]
    sums = [
        [table[torch.arange(len(side)), side].sum()[None] for table, side in zip(model, tokens, strict=True)]
        for model in logps
    ]
    kl = [(r.exp() * (r - p)).sum()[None] for p, r in zip(*logps, strict=True)]
    collision = [p.exp().square().sum(-1).log().sum()[None] for p in logps[0]]
    return (PairLogps(*sums[0], *lengths), PairLogps(*sums[1], *lengths)), PairValues(*kl), PairValues(*collision)


Z3, Z3_KL, _ = from_logits(
    [[[2.0, 0.5, -1.0], [0.0, 1.0, 0.5]], [[0.3, 0.2, 0.1], [1.5, -0.5, 0.0], [-1.0, 0.0, 1.0]]],
    [[[1.5, 0.6, -0.8], [0.2, 0.7, 0.6]], [[0.5, 0.1, 0.0], [1.0, 0.0, 0.1], [-0.5, 0.2, 0.6]]],
    [[0, 2], [1, 0, 2]],
)
"""A pair over three tokens: log-ratio gap -0.6658663753, divergences 0.06408818215 and 0.1517648302."""
G3, G3_KL, G3_COLLISION = from_logits(
    [[[0.13, -0.13, 0.64], [0.1, -0.54, 0.36], [1.3, 0.95, -0.7]], [[-2.33, -0.22, -1.25], [-0.73, -0.54, -0.32]]],
    [[[0.9, 0.09, -0.74], [-0.92, -0.46, 0.22], [-1.01, -0.21, -0.16]], [[-0.65, -0.13, 0.78], [1.49, -1.26, 1.51]]],
    [[2, 0, 1], [1, 2]],
)
"""Another: log-ratios 2.0704656381 and 0.82664303055, divergences 0.970736830244 and 0.695627595097."""
PAIR = (PairLogps(t(-12.5), t(-20.0), t(14), t(10)), PairLogps(t(-13.0), t(-19.0), t(14), t(10)))
"""One pair; log-ratios 0.5 and -1, gap 1.5."""
KL2 = {"kl": PairValues(t(0.25, 0.5), t(1.0, 0.125))}
"""Divergences along the pairs of P2."""
COLLISION2 = {"log_collision": PairValues(t(-10.0, -16.0), t(-12.0, -17.0))}
"""Log-probabilities that two draws agree, which make the mean differences of P2 -0.5, -0.53125; -0.5, -0.4375."""


def scores(chosen: tuple[float, float], rejected: tuple[float, float]) -> dict[str, Any]:
    """What the data say of two pairs."""
    return {
        "margin": t(*chosen) - t(*rejected), "chosen_scores": t(*chosen), "rejected_scores": t(*rejected),
    }  # fmt: skip


def rdpo(gap: float, eps: float) -> float:
    """Loss of a pair whose margin is `gap`."""
    return ((1 - eps) * softplus(-gap) - eps * softplus(gap)) / (1 - 2 * eps)


def exo(gap: float, eps: float) -> float:
    """Divergence of (q, 1 - q), q = sigmoid(gap), from (1 - eps, eps)."""
    q = sigmoid(gap)
    return q * log(q / (1 - eps)) + (1 - q) * log((1 - q) / eps)


def nca(chosen: float, rejected: float) -> float:
    """Loss of a pair with these rewards."""
    return softplus(-chosen) + (softplus(chosen) + softplus(rejected)) / 2


def discopop(gap: float, tau: float) -> float:
    """Loss of a pair whose margin is `gap`."""
    above = sigmoid(gap / tau)
    return (1 - above) * softplus(-gap) + above * exp(-gap)


CASES = [
    Case("dpo", "DPO", P2, [
        Value({"beta": 0.1}, (softplus(-0.1 * 1.25) + softplus(0.1 * 1.0)) / 2),
        Value({"beta": 0.5}, (softplus(-0.5 * 1.25) + softplus(0.5 * 1.0)) / 2),
    ]),
    # Gaps per token: 0.5 / 5 + 0.75 / 6 and -0.75 / 8 - 0.25 / 4.
    Case("ln_dpo", "LengthNormalizedDPO", P2, [
        Value({}, (softplus(-5 * 0.225) + softplus(5 * 0.15625)) / 2),
        Value({"beta": 0.5}, (softplus(-0.5 * 0.225) + softplus(0.5 * 0.15625)) / 2),
    ], per_token=True),
    Case("discopop", "DiscoPOP", P2, [
        Value({"beta": 0.1}, (discopop(0.125, 0.05) + discopop(-0.1, 0.05)) / 2),
        Value({"beta": 0.5, "tau": 0.2}, (discopop(0.625, 0.2) + discopop(-0.5, 0.2)) / 2),
    # It rises between -0.119 and 0.072, see `test_pairs.py`, and steps jump over its bottom; not so for large tau.
    ], directed=False, training={"tau": 1.0}),
    Case("cdpo", "ConservativeDPO", P2, [
        Value(
            {"beta": 0.1, "label_smoothing": 0.1},
            (0.9 * softplus(-0.125) + 0.1 * softplus(0.125) + 0.9 * softplus(0.1) + 0.1 * softplus(-0.1)) / 2,
        ),
        Value({"beta": 0.5, "label_smoothing": 0.3}, (smooth(0.625, 0.3) + smooth(-0.5, 0.3)) / 2),
        Value({"beta": 0.1, "label_smoothing": 0.2}, 0.716730877096, inputs=V3),
    ]),
    Case("ipo", "IPO", P2, [
        # Per-token gaps: 0.5/5 + 0.75/6 = 0.225 and -0.75/8 - 0.25/4 = -0.15625; the target is 1 / (2 * 0.5) = 1.
        Value({"beta": 0.5}, ((0.225 - 1) ** 2 + (-0.15625 - 1) ** 2) / 2),
        Value({"beta": 0.5, "length_average": False}, ((1.25 - 1) ** 2 + (-1.0 - 1) ** 2) / 2),
        Value({"beta": 0.1}, ((0.225 - 5) ** 2 + (-0.15625 - 5) ** 2) / 2),
        Value({"beta": 0.1, "length_average": False}, 34.5416666667, inputs=V3),
        Value({"beta": 0.1}, 25.7261863426, inputs=tuple(
            side._replace(chosen_lengths=t(6, 4, 10), rejected_lengths=t(5, 5, 8)) for side in V3
        )),
    ]),
    Case("rdpo", "RobustDPO", P2, [
        Value({"beta": 0.1, "label_smoothing": 0.1}, (rdpo(0.125, 0.1) + rdpo(-0.1, 0.1)) / 2),
        Value({"beta": 0.5, "label_smoothing": 0.3}, (rdpo(0.625, 0.3) + rdpo(-0.5, 0.3)) / 2),
        Value({"beta": 0.1, "label_smoothing": 0.2}, 0.752286432652, inputs=V3),
        Value({"beta": 0.5, "label_smoothing": 0.4}, 1.6106962237, inputs=V3),
        Value({"beta": 0.1, "label_smoothing": 0.0}, (softplus(-0.125) + softplus(0.1)) / 2),
    ]),
    Case("hinge", "HingeDPO", P2, [
        # Also RSO's hinge-norm, whose gamma is beta.
        Value({"beta": 0.05}, (1 - 0.05 * 1.25 + 1 + 0.05 * 1.0) / 2),
        Value({"beta": 1.0}, (0.0 + 2.0) / 2),
    ]),
    Case("rpo", "RegularizedPO", W2, [
        Value({"beta": 0.01, "eta": 0.005}, (softplus(-0.013) + softplus(-0.002)) / 2 + 0.005 * 0.01 * (4.5 + 5) / 2),
        Value(
            {"beta": 0.5, "eta": 0.2, "sft_reduction": "sequence_mean"},
            (softplus(-0.65) + softplus(-0.1)) / 2 + 0.2 * (4.5 / 5 + 5 / 3) / 2,
        ),
        Value(
            {"beta": 0.01, "eta": 0.005, "sft_reduction": "token_mean"},
            (softplus(-0.013) + softplus(-0.002)) / 2 + 0.005 * (4.5 + 5) / (5 + 3),
        ),
        Value({"beta": 0.1, "eta": 0.005}, 0.736855877096, inputs=V3),
        Value({"beta": 0.5, "eta": 0.2}, 2.30236289037, inputs=V3),
    ]),
    Case("odpo", "ODPO", P2, [
        Value({"beta": 0.5}, (softplus(log(0.5) - 0.625) + softplus(log(0.1) + 0.5)) / 2),
        Value(
            {"beta": 0.7, "alpha": 0.5},
            (softplus(0.5 * log(1.95) - 0.875) + softplus(0.5 * log(0.05) + 0.7)) / 2,
            facts=scores((1.98, 1.2), (0.03, 1.15)),
        ),
        Value({"beta": 0.5, "offset": "identity"}, (softplus(0.5 - 0.625) + softplus(0.1 + 0.5)) / 2),
        Value({"beta": 0.5, "offset": "ratio"}, (softplus(log(9 / 4) - 0.625) + softplus(log(7 / 6) + 0.5)) / 2),
    ], facts=scores((0.9, 0.7), (0.4, 0.6))),
    Case("tr_dpo", "TRDPO", P2, [
        Value({"beta": 0.1}, (softplus(-0.125) + softplus(0.1)) / 2),
        Value({}, (softplus(-0.0625) + softplus(0.05)) / 2),
    ]),
    Case("f_dpo", "FDPO", P2, [
        # Log-ratios 0.5, -0.75 (chosen) and -0.75, 0.25 (rejected).
        Value({"divergence": "reverse_kl"}, (softplus(-0.125) + softplus(0.1)) / 2),
        Value(
            {"divergence": "forward_kl"},
            (softplus(0.1 * (exp(-0.5) - exp(0.75))) + softplus(0.1 * (exp(0.75) - exp(-0.25)))) / 2,
        ),
        Value(
            {"divergence": "js"},
            softplus(0.1 * (softplus(-0.5) - softplus(0.75))) / 2
            + softplus(0.1 * (softplus(0.75) - softplus(-0.25))) / 2,
        ),
        Value(
            {"divergence": "alpha", "alpha": 0.5},
            (softplus(0.2 * (exp(-0.25) - exp(0.375))) + softplus(0.2 * (exp(0.375) - exp(-0.125)))) / 2,
        ),
        Value({"divergence": "alpha", "alpha": 0.3, "beta": 0.5}, 0.7094529362),
        Value({"divergence": "reverse_kl"}, 0.73006421043, inputs=V3),
        Value({"divergence": "forward_kl"}, 0.741245065286, inputs=V3),
        Value({"divergence": "js"}, 0.709775598882, inputs=V3),
        Value({"divergence": "alpha", "alpha": 0.3}, 0.730026615499, inputs=V3),
    ]),
    Case("r_dpo", "LengthRegularizedDPO", P2, [
        # Chosen responses are shorter by 1 and longer by 4 tokens.
        Value({"beta": 0.1, "alpha": 0.05}, (softplus(-0.125 + 0.05) + softplus(0.1 - 0.2)) / 2),
        Value({"beta": 0.5, "alpha": 0.1}, (softplus(-0.625 + 0.1) + softplus(0.5 - 0.4)) / 2),
    ]),
    Case("ilr_dpo", "IterativeLRDPO", P2, [
        Value({"beta": 0.1, "alpha": 0.02}, (softplus(-0.125 + 0.02) + softplus(0.1 - 0.08)) / 2),
    ]),
    Case("ld_dpo", "LDDPO", W2, [
        # Modified: policy -3.125, -5 against -5, -3.3; reference -3.3, -4.7 against -3.8, -3.
        Value({"beta": 0.1, "alpha": 0.5}, (softplus(-0.1 * (0.175 + 1.2)) + log(2)) / 2),
        Value({"beta": 0.5, "alpha": 0.0}, (softplus(-0.5 * (0.25 + 1.2)) + softplus(0.5 * 0.2)) / 2),
        Value(
            {"beta": 0.1, "alpha": 0.5, "apply_to_reference": False},
            (softplus(-0.1 * (1.475 + 1.2)) + softplus(0.1 * (0.3 + 0.7))) / 2,
        ),
        Value({"beta": 0.1, "alpha": 1.0}, (softplus(-0.13) + softplus(-0.02)) / 2),
    ]),
    Case("tdpo1", "TDPO1", P2, [
        Value({"beta": 0.1}, (softplus(-0.1 * (1.25 - 0.75)) + softplus(0.1 * (1.0 - 0.375))) / 2),
        Value({"beta": 0.1}, 0.7315339477, inputs=Z3, facts={"kl": Z3_KL}),
        Value({"beta": 0.1}, 0.620081762736, inputs=G3, facts={"kl": G3_KL}),
    ], facts=KL2),
    Case("tdpo2", "TDPO2", P2, [
        Value({"beta": 0.1}, (softplus(-0.1 * (1.25 - 0.375)) + softplus(0.1 * (1.0 - 0.1875))) / 2),
        Value({"beta": 0.1, "alpha": 0.5}, 0.7292618844, inputs=Z3, facts={"kl": Z3_KL}),
        Value({"beta": 1.0, "alpha": 0.7}, 1.121469508, inputs=Z3, facts={"kl": Z3_KL}),
        Value({"beta": 0.1, "alpha": 0.5}, 0.626461679032, inputs=G3, facts={"kl": G3_KL}),
    ], facts=KL2, stops_gradient=True),  # The chosen response's divergence.
    Case("apo_zero", "APOZero", P2, [
        Value({"beta": 0.1}, (sigmoid(-0.05) + sigmoid(-0.075) + sigmoid(0.075) + sigmoid(0.025)) / 2),
        Value({"beta": 0.5}, (sigmoid(-0.25) + sigmoid(-0.375) + sigmoid(0.375) + sigmoid(0.125)) / 2),
    ]),
    Case("apo_down", "APODown", P2, [
        Value({"beta": 0.1}, (sigmoid(0.05) + sigmoid(-0.125) + sigmoid(-0.075) + sigmoid(0.1)) / 2),
        Value({"beta": 0.5}, (sigmoid(0.25) + sigmoid(-0.625) + sigmoid(-0.375) + sigmoid(0.5)) / 2),
    ], directed=False),  # It may push both responses down.
    # Margins, sorted: -1.5, 1.5, 6 under the policy, 0, 0.5, 3 under the reference. Micro-batches are compared each by
    # itself.
    Case("aot", "AOT", A3, [
        Value({"beta": 0.1}, (softplus(0.15) + softplus(-0.1) + softplus(-0.3)) / 3),
        Value({"beta": 0.5, "label_smoothing": 0.1}, (smooth(-0.75, 0.1) + smooth(0.5, 0.1) + smooth(1.5, 0.1)) / 3),
        # Here pairs change places: -2.25, -1, 1.25 and -2, 0.5, 1.5.
        Value({"beta": 0.1}, (softplus(0.025) + softplus(0.15) + softplus(0.025)) / 3, inputs=V3),
    ], accumulates=False, couples=True),
    # Log-ratios, sorted: -1, 0.5, 1 (chosen) and -2, -0.5, 0.5 (rejected).
    Case("aot_unpaired", "AOTUnpaired", A3, [
        Value({"beta": 0.1}, (softplus(-0.1) + softplus(-0.1) + softplus(-0.05)) / 3),
        Value({"beta": 0.5, "label_smoothing": 0.1}, (2 * smooth(0.5, 0.1) + smooth(0.25, 0.1)) / 3),
    ], accumulates=False, couples=True),
    # The mean of the rewards 0.05, -0.075, -0.075 and 0.025 is -0.01875; it passes no gradient, and it is that of all
    # micro-batches so far.
    Case("bco_pair", "BCOPair", P2, [
        Value(
            {"beta": 0.1}, (softplus(-0.06875) + softplus(-0.05625) + softplus(0.05625) + softplus(0.04375)) / 2
        ),
        Value(
            {"beta": 0.1, "shift": False}, (softplus(-0.05) + softplus(-0.075) + softplus(0.075) + softplus(0.025)) / 2
        ),
    ], accumulates=False, couples=True, stops_gradient=True),
    Case("nca_pair", "NCAPair", P2, [
        Value({"beta": 0.01}, (nca(0.005, -0.0075) + nca(-0.0075, 0.0025)) / 2),
        Value({"beta": 0.5}, (nca(0.25, -0.375) + nca(-0.375, 0.125)) / 2),
    ]),
    Case("exo", "EXO", P2, [
        Value({"beta": 0.1}, (exo(0.125, 0.001) + exo(-0.1, 0.001)) / 2),
        Value({"beta": 0.1, "label_smoothing": 0.001}, 2.87896413761, inputs=V3),
        # The authors' code has 3.69283969648, since it takes log(1 - eps) for 0.
        Value(
            {"beta": 0.5, "label_smoothing": exp(-10)},
            3.69283969648 - sigmoid(0.25) * log(1 - exp(-10)),
            inputs=(PairLogps(t(-1.0), t(-0.8), t(1), t(1)), PairLogps(t(-1.3), t(-0.6), t(1), t(1))),
        ),
    ]),
    Case("sppo_hard", "SPPOHard", P2, [
        Value({"beta": 0.5}, ((0.5 - 1) ** 2 + (-0.75 + 1) ** 2 + (-0.75 - 1) ** 2 + (0.25 + 1) ** 2) / 2),
        Value({"beta": 0.5}, (0.5 + 2.8125 + 11.3125) / 3, inputs=V3),
        Value({}, (499.5**2 + 499.25**2 + 500.75**2 + 500.25**2) / 2),
        # The loss is quadratic: steps that suit other methods jump over its minimum.
    ], training={"beta": 0.5, "learning_rate": 1e-4, "dtype": "float64"}),
    Case("sppo", "SPPO", P2, [
        # Log-ratios are 0.5, -0.75 (chosen) and -0.75, 0.25 (rejected); targets 0.8, 0 and -0.8, -0.4.
        Value({"beta": 0.5}, ((0.5 - 0.8) ** 2 + (-0.75 + 0.8) ** 2 + (-0.75 - 0.0) ** 2 + (0.25 + 0.4) ** 2) / 4),
        Value({"beta": 0.5}, 0.9325, V3, {"chosen_wins": t(0.9, 0.7, 0.6), "rejected_wins": t(0.2, 0.3, 0.45)}),
        # Certain labels are half of SPPOHard's loss.
        Value({"beta": 0.5}, 14.625 / 6, V3, {"chosen_wins": t(1, 1, 1), "rejected_wins": t(0, 0, 0)}),
        Value({}, 124500.625, PAIR, {"chosen_wins": t(0.9), "rejected_wins": t(0.2)}),
        Value({"beta": 0.1}, 8.125, PAIR, {"chosen_wins": t(0.9), "rejected_wins": t(0.2)}),
    ], facts={"chosen_wins": t(0.9, 0.5), "rejected_wins": t(0.1, 0.3)},
       training={"beta": 0.05, "learning_rate": 1e-4, "dtype": "float64"}),  # Quadratic, as SPPOHard's.
    Case("self_play", "SelfPlay", P2, [
        Value({}, (softplus(-0.125) + softplus(0.1)) / 2),
        Value({"beta": 0.1}, 0.6209570478, PAIR),
        Value({"beta": 0.1, "shape": "hinge"}, 0.85, PAIR),
        Value({"beta": 0.1, "shape": "exponential"}, exp(-0.15), PAIR),
        Value({"beta": 0.1, "shape": "correlation"}, 0.85, PAIR),
        Value({"beta": 1.0, "shape": "hinge"}, (0.0 + 2.0) / 2),
        # Past the exponent of 40, the tangent there.
        Value({"beta": 100.0, "shape": "exponential"}, (exp(-125) + exp(40) * (1 + 100 - 40)) / 2),
    ]),
    Case("soft_dpo", "SoftDPO", P2, [
        Value({}, (smooth(0.125, 0.2) + smooth(-0.1, 0.4)) / 2),
        Value({"beta": 0.1}, 0.6509570478, PAIR, {"label_probability": t(0.8)}),
        # A reward model's differences of 1, 0.5 and 4.
        Value({"beta": 0.1}, 0.734234016322, V3, {"label_probability": t(sigmoid(1), sigmoid(0.5), sigmoid(4))}),
        Value({"beta": 0.1}, softplus(-0.15), PAIR, {"label_probability": t(1.0)}),
        Value({"beta": 0.1}, softplus(0.15), PAIR, {"label_probability": t(0.0)}),
    ], facts={"label_probability": t(0.8, 0.6)}),
    Case("wpo", "WPO", P2, [
        Value({"beta": 0.1}, (exp(-1.0) * softplus(-0.125) + exp(-0.96875) * softplus(0.1)) / 2),
        Value({"beta": 0.1}, softplus(-0.1 * (2.0704656381 - 0.82664303055)), inputs=G3,
              facts={"log_collision": G3_COLLISION}),
        Value({"beta": 0.1, "clamp": False},
              exp(0.0225392735237 + 0.213046517337) * softplus(-0.1 * (2.0704656381 - 0.82664303055)), inputs=G3,
              facts={"log_collision": G3_COLLISION}),
    ], facts=COLLISION2, stops_gradient=True, learns=False),  # The weights, which rise with likelihoods.
    Case("chi_po", "ChiPO", P2, [
        Value(
            {}, (softplus(-0.05 * (exp(0.5) - exp(-0.75) + 1.25)) + softplus(0.05 * (exp(0.25) - exp(-0.75) + 1))) / 2
        ),
        Value({"beta": 0.05}, 0.742976690692, inputs=V3),
        Value({"beta": 0.5, "r_max": 0.5}, 0.810266672959, inputs=V3),
        Value(
            {"beta": 0.5, "r_max": None, "gamma": 0.0},
            (softplus(-0.5 * (exp(0.5) - exp(-0.75))) + softplus(0.5 * (exp(0.25) - exp(-0.75)))) / 2,
        ),
    ]),
]  # fmt: skip
