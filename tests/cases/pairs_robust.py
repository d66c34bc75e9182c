"""Rows of the methods on pairs with a reference that resist noise, drift, displacement or corruption.

R3 has log-ratios 0.5, -0.5, -1.25 (chosen) and -0.5, -0.25, 1.5 (rejected), so gaps 1, -0.25, -2.75.
"""

from __future__ import annotations

from math import exp, log, sqrt

from lit_align.core.outputs import PairLogps
from tests.cases.row import P2, P2_ALONE, Case, Value, sigmoid, softplus, t

_LENGTHS = (t(6, 4, 10), t(5, 5, 8))
R3 = (
    PairLogps(t(-12.0, -8.5, -20.25), t(-11.0, -9.75, -18.0), *_LENGTHS),
    PairLogps(t(-12.5, -8.0, -19.0), t(-10.5, -9.5, -19.5), *_LENGTHS),
)
R3_ALONE = (R3[0], PairLogps(t(0, 0, 0), t(0, 0, 0), *_LENGTHS))
EVEN = (PairLogps(t(-4.0), t(-6.0), t(10), t(10)), PairLogps(t(0), t(0), t(10), t(10)))
"""A pair whose gap per token is 0.2."""


def _soft_minimum(losses: list[float], beta_prime: float) -> float:
    return -beta_prime * log(sum(exp(-loss / beta_prime) for loss in losses) / len(losses))


def _alpha_dpo(gaps: list[float], rewards: list[float], beta: float, ratio: float, alpha: float) -> float:
    """The first step: averages are a tenth of the batch's mean and unbiased standard deviation."""
    mean = sum(gaps) / len(gaps)
    std = sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1))
    margins = [ratio + alpha * (gap - 0.1 * mean) / (0.1 * std) for gap in gaps]
    return sum(softplus(-beta * (r - m)) for r, m in zip(rewards, margins, strict=True)) / len(gaps)


def _ropo(gap: float, alpha: float) -> float:
    return 4 * alpha / (1 + alpha) ** 2 * (softplus(-gap) + alpha * sigmoid(-gap))


def _dated(weights: list[float], beta: float) -> list[float]:
    return [w * softplus(-beta * gap) for w, gap in zip(weights, (1.0, -0.25, -2.75), strict=True)]


_SCORES = {"chosen_scores": t(0.9, 0.5), "rejected_scores": t(0.1, 0.4)}
_TIMES = {"timestamp": t(10, 55, 99)}
_DPO_01 = (softplus(-0.1) + softplus(0.025) + softplus(0.275)) / 3
_MEANS = (-2.0 + 2.2, -2.125 + 1.95, -2.025 + 2.25)
"""Gaps of mean log-probabilities of R3: 0.2, -0.175, 0.225."""
_MEAN_GAPS = (0.5 / 6 + 0.5 / 5, -0.5 / 4 + 0.25 / 5, -1.25 / 10 - 1.5 / 8)
_NLL = (12.0 + 8.5 + 20.25) / 20
"""Of the chosen responses of R3, per token; the mean over responses is the next."""
_NLL_OF_RESPONSES = (2.0 + 2.125 + 2.025) / 3

CASES = [
    Case("dpop", "DPOPositive", P2, [
        # Chosen log-ratios are 0.5 and -0.75; only the second is penalised.
        Value({"beta": 0.1, "penalty": 5.0}, (softplus(-0.125) + softplus(0.1 * (1.0 + 5 * 0.75))) / 2),
        Value({"beta": 0.3, "penalty": 50.0}, 9.23495607881, R3),
        Value({"beta": 0.1, "penalty": 5.0}, 0.908540400832, R3),
        Value({"beta": 0.1, "penalty": 0.0}, _DPO_01, R3),
    # With the default penalty, gradients are too large for the precision of the tests.
    ], training={"penalty": 1.0}),
    Case("cal_dpo", "CalDPO", P2, [
        Value(
            {"beta": 0.5},
            (softplus(-1.25) + softplus(1.0)) / 2
            + 0.5 * ((0.5 - 1) ** 2 + (-0.75 + 1) ** 2 + (-0.75 - 1) ** 2 + (0.25 + 1) ** 2) / 2,
        ),
        Value({"beta": 0.5}, 3.75455623213, R3),
        Value({"beta": 0.002}, 62668.7545562, R3),
        Value({"beta": 0.5, "calibration_weight": 0.0}, (softplus(-1) + softplus(0.25) + softplus(2.75)) / 3, R3),
    # With the default beta, targets of 250 nats make gradients that float32 does not add up to the tests' precision.
    ], training={"beta": 0.05, "calibration_weight": 0.02}),
    Case("flex_dpo", "FlexDPO", P2, [
        Value({}, (softplus(-0.1 * 0.5 - 0.08 * 0.75) + softplus(0.1 * 0.75 + 0.08 * 0.25)) / 2),
        Value({}, 0.726850210017, R3),
        Value({"beta_plus": 0.5, "beta_minus": 0.1}, 0.840078535958, R3),
        Value({"beta_plus": 0.1, "beta_minus": 0.1, "sft_weight": 0.1}, 2.08839754376, R3),
        Value({"beta_plus": 0.1, "beta_minus": 0.1}, _DPO_01, R3),
    ]),
    Case("mappo", "MaPPO", P2, [
        # Gaps of scores 0.8 and 0.1.
        Value({}, (softplus(-0.1 * (0.5 + 0.8 * 0.75)) + softplus(0.1 * (0.75 + 0.1 * 0.25))) / 2),
        # Gaps are cut at 1, which is DPO, and at 0.
        Value(
            {"score_range": 0.5},
            (softplus(-0.125) + softplus(0.1 * 0.75)) / 2,
            facts={"chosen_scores": t(1.5, 0.5), "rejected_scores": t(0.5, 0.75)},
        ),
        Value({}, 0.718752580995, R3, {"chosen_scores": t(0.8, 0.6, 1.4), "rejected_scores": t(0.0, 0.5, 1.0)}),
    ], facts=_SCORES),
    Case("alpha_dpo", "AlphaDPO", P2, [
        # Log-ratio gaps per token are 0.225 and -0.15625, gaps of means 0 and 2.15625.
        Value({}, _alpha_dpo([0.225, -0.15625], [0.0, 2.15625], 2.5, 0.6, 0.2)),
        Value({}, 1.9534550348, R3),
        Value({"beta": 10.0, "gamma_beta_ratio": 0.4}, _alpha_dpo([*_MEAN_GAPS], [*_MEANS], 10.0, 0.4, 0.2), R3),
        # SimPO.
        Value({"beta": 2.0, "gamma_beta_ratio": 0.5, "alpha": 0.0}, (softplus(1.0) + softplus(1.0 - 4.3125)) / 2),
    # The margin is held constant, belongs to the micro-batch, and moves from step to step. A small alpha: at the start
    # of training gaps are small, and standardised ones show the rounding of float32.
    ], accumulates=False, couples=True, stops_gradient=True, learns=False, per_token=True, training={"alpha": 0.02}),
    Case("beta_dpo", "BetaDPO", P2, [
        # The mean gap is 0.125, the running mean a tenth of it; beta is 0.1 * (1 + 0.6 * 0.1125).
        Value({"filter_rate": 0.0}, (softplus(-0.10675 * 1.25) + softplus(0.10675)) / 2),
        # The mean gap is -2/3, the running mean -2/30: beta is 0.1 * (1 - 0.6 * 0.6).
        Value({"filter_rate": 0.0}, (softplus(-0.064) + softplus(0.016) + softplus(0.176)) / 3, R3),
        Value({"filter_rate": 0.0, "sensitivity": 0.0}, _DPO_01, R3),
    # The batch's beta is held constant.
    ], accumulates=False, couples=True, stops_gradient=True, training={"filter_rate": 0.0}),
    Case("dr_dpo", "DrDPO", P2, [
        Value({"beta": 0.1}, _soft_minimum([softplus(-0.125), softplus(0.1)], 1.0)),
        Value({"beta": 0.1, "beta_prime": 1.0}, 0.726766337974, R3),
        Value({"beta": 0.1, "beta_prime": 0.1}, 0.70220684328, R3),
        # Losses 0.1 and 1, for which the paper gives weights of 2.0 and 0.0.
        Value(
            {"beta": 1.0, "beta_prime": 0.1},
            _soft_minimum([0.1, 1.0], 0.1),
            (
                PairLogps(t(-log(exp(0.1) - 1), -log(exp(1.0) - 1)), t(0, 0), t(1, 1), t(1, 1)),
                PairLogps(t(0, 0), t(0, 0), t(1, 1), t(1, 1)),
            ),
        ),
    ], accumulates=False, couples=True),
    Case("ns_dpo", "NSDPO", R3, [
        Value({"current_time": 100.0}, 0.825633001062),
        Value({}, 0.825633001062),
        Value({"current_time": 100.0, "normalise": False}, 0.306883041769),
        Value({"beta": 0.5, "gamma": 0.7, "current_time": 101.0}, 0.963555074743, facts={"timestamp": t(98, 100, 99)}),
        Value({"gamma": 1.0}, _DPO_01),
        # With the unit of 86400; weights 0.25, 0.5 and 1.
        Value(
            {"gamma": 0.5, "time_unit": 86400.0},
            sum(_dated([0.25, 0.5, 1.0], 0.1)) / 1.75,
            facts={"timestamp": t(0, 86400, 2 * 86400)},
        ),
        # SW-DPO: the first pair is 90 steps old.
        Value({"gamma": 1.0, "current_time": 100.0, "window": 50.0}, (softplus(0.025) + softplus(0.275)) / 2),
        Value({"gamma": 1.0, "current_time": 200.0, "window": 50.0}, 0.0),
        # So old that a weight by itself would be 0.
        Value({}, softplus(0.275), facts={"timestamp": t(-3e6, -2e6, -1e6)}),
    ], facts=_TIMES, accumulates=False, couples=True, training={"current_time": 100.0}),
    Case("dpo_cov", "DPOCOV", P2, [
        # Lengths differ by -1 and 4: margins 0.05 * 1.25 - 0.0005 and -0.05 + 0.002, both above log(1 / 0.7 - 1).
        Value({}, (softplus(-0.062) + softplus(0.048)) / 2 + 0.05 * 5e-4 * (12.5 + 20.25) / 2),
        Value({}, 0.710875796426, R3),
        Value(
            {"beta": 0.5, "noise_cost": 0.3, "sft_weight": 0.01, "length_weight": 0.02}, 0.774780968722, R3
        ),
        Value({"beta": 0.5, "noise_cost": 0.5, "sft_weight": 0.0, "length_weight": 0.0}, 0.870123781767, R3),
        Value({"beta": 0.5, "noise_cost": 1.0, "sft_weight": 0.0, "length_weight": 0.0}, 0.944029557033, R3),
    ]),
    Case("ropo", "ROPO", P2, [
        Value({"beta": 0.1}, (_ropo(0.125, 14.0) + _ropo(-0.1, 14.0)) / 2),
        Value({"beta": 0.1}, 1.98152550552, R3, {"source_rows": t(1, 2, 3)}),
        Value({"beta": 1.0, "alpha": 6.0}, 2.37997654349, R3, {"source_rows": t(1, 2, 3)}),
    ], facts={"source_rows": t(1, 2)}),
    Case("osc", "OneSidedPO", P2_ALONE, [
        # Gaps per token are 0 and 2.15625, of whole responses 2.5 and -1.5.
        Value({"beta": 2.0, "margin": 0.5}, (softplus(1.0) + softplus(1.0 - 4.3125)) / 2),
        Value({"beta": 0.1, "margin": 0.0, "z": "sum"}, (softplus(-0.25) + softplus(0.15)) / 2),
        # DPO.
        Value({"beta": 0.1, "margin": 0.0, "z": "log_ratio"}, (softplus(-0.125) + softplus(0.1)) / 2, P2),
    ]),
    Case("stapo", "TwoSidedPO", P2_ALONE, [
        Value(
            {"beta": 2.0, "left": 0.5, "right": 1.5},
            (softplus(1.0) + softplus(-3.0) + softplus(1.0 - 4.3125) + softplus(4.3125 - 3.0)) / 2,
        ),
        Value({"beta": 10.0}, 2.44015743755, R3_ALONE),
        # Gaps of log-ratios are 1.25 and -1.
        Value(
            {"beta": 2.0, "left": 0.5, "right": 1.5, "z": "log_ratio"},
            (softplus(-1.5) + softplus(-0.5) + softplus(3.0) + softplus(-5.0)) / 2,
            P2,
        ),
        Value({"beta": 0.5, "left": 0.0, "right": 2.0, "z": "sum"}, 1.2154288732, R3_ALONE),
        # Halfway between the margins, where the gradient is 0.
        Value({"beta": 10.0, "left": 0.1, "right": 0.3}, 2 * softplus(-1.0), EVEN),
    # Above the right margin a pair is pushed the other way.
    ], directed=False),
    Case("spo_dpo", "StableDPO", R3, [
        Value({"v_hat": 1.8}, 0.96756421043),
        Value({"v_hat": 1.8}, _DPO_01 + _NLL - 1.8),
        Value({"rho": 0.5, "nll_reduction": "sequence_mean", "v_hat": 0.0}, _DPO_01 + 0.5 * _NLL_OF_RESPONSES),
        Value({"rho": 2.0, "penalty": "hinge", "v_hat": 1.8, "slack": 0.1}, _DPO_01 + 2 * (_NLL - 1.9)),
        # The policy imitates well enough.
        Value({"rho": 2.0, "penalty": "squared_hinge", "v_hat": 3.0}, _DPO_01),
    # Hinges are for whole batches, see `spo_cpo`; the initial policy is measured in `test_robust.py`.
    ], training={"v_hat": 1.0}),
    Case("spo_cpo", "StableCPO", R3_ALONE, [
        Value({"beta": 0.1, "rho": 2.0, "penalty": "hinge", "v_hat": 1.8, "slack": 0.1}, 1.00465256581),
        Value({"beta": 0.1}, (softplus(0.1) + softplus(-0.125) + softplus(0.225)) / 3 + _NLL),
    ], accumulates=False, couples=True, training={"penalty": "hinge", "v_hat": 1.0}),
    Case("spo_simpo", "StableSimPO", R3_ALONE, [
        Value(
            {
                "beta": 2.0, "gamma": 1.0, "rho": 5.0, "penalty": "squared_hinge", "v_hat": 1.8, "slack": 0.05,
                "nll_reduction": "sequence_mean",
            },
            1.40782966777,
        ),
        Value({"beta": 2.0, "gamma": 1.0}, sum(softplus(1 - 2 * gap) for gap in _MEANS) / 3 + _NLL),
    ], accumulates=False, couples=True, per_token=True, training={"penalty": "squared_hinge", "v_hat": 1.0}),
]  # fmt: skip
