"""Rows of the methods on pairs that need no reference."""

from __future__ import annotations

from tests.cases.row import P2, T2, Case, Value, log_odds, softplus

_ODDS = [log_odds(-0.9) - log_odds(-5 / 3), log_odds(-5 / 3) - log_odds(-1.125)]
_ODDS_RATIO = (softplus(-_ODDS[0]) + softplus(-_ODDS[1])) / 2

CASES = [
    Case("simpo", "SimPO", P2, [
        # Mean log-probabilities: -2.5 against -2.5, and -2.53125 against -4.6875.
        Value({"beta": 2.0, "gamma": 1.0}, (softplus(1.0 - 2 * 0) + softplus(1.0 - 2 * 2.15625)) / 2),
        Value({"beta": 2.0, "gamma_beta_ratio": 0.5}, (softplus(1.0) + softplus(1.0 - 4.3125)) / 2),
        Value(
            {"beta": 2.0, "gamma": 1.0, "nll_weight": 0.5},
            (softplus(1.0) + softplus(1.0 - 4.3125)) / 2 + 0.5 * (12.5 + 20.25) / (5 + 8),
        ),
    ], per_token=True),
    Case("orpo", "ORPO", T2, [
        Value({"beta": 0.1}, 9.5 / 8 + 0.1 * _ODDS_RATIO, inputs=(T2[0]._replace(prompt=None), T2[1])),
        Value({"beta": 1.0}, 9.5 / 8 + _ODDS_RATIO, inputs=(T2[0]._replace(prompt=None), T2[1])),
        Value({"beta": 0.1, "nll_tokens": "prompt_and_response"}, 13.5 / 13 + 0.1 * _ODDS_RATIO),
        Value(
            {"beta": 0.1, "nll_per": "examples"},
            (4.5 / 5 + 5.0 / 3) / 2 + 0.1 * _ODDS_RATIO,
            inputs=(T2[0]._replace(prompt=None), T2[1]),
        ),
    ], per_token=True),
]  # fmt: skip
