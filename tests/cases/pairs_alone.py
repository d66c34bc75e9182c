"""Rows of the methods on pairs that need no reference."""

from __future__ import annotations

from math import exp, log

from lit_align.core.outputs import PairLogps, PairValues
from tests.cases.row import P2, P2_ALONE, T2, Case, Value, log_odds, sigmoid, smooth, softplus, t

_T2 = (T2[0]._replace(prompt=None), T2[1])
_ODDS = [log_odds(-0.9) - log_odds(-5 / 3), log_odds(-5 / 3) - log_odds(-1.125)]
_ODDS_RATIO = (softplus(-_ODDS[0]) + softplus(-_ODDS[1])) / 2

# Whole log-probabilities: -12.5 against -15, and -20.25 against -18.75; the texts to stay close to have -10 and -22.
_SLIC = (P2[0]._replace(target=t(-10.0, -22.0), target_lengths=t(4, 9)), P2[1])

_GOLD = (_SLIC[0], P2_ALONE[1])


def _shaped(mean_logp: float, alpha: float) -> float:
    """AlphaPO's reward in units of beta."""
    return (1 - exp(mean_logp) ** -alpha) / alpha


def _alpha_po(alpha: float) -> float:
    """The loss of P2 at beta 2 and gamma 1; mean log-probabilities -2.5 twice, and -2.53125 against -4.6875."""
    gaps = (0, _shaped(-2.53125, alpha) - _shaped(-4.6875, alpha))
    return sum(softplus(1.0 - 2 * gap) for gap in gaps) / 2


# Two tokens of five logits on each side; the likeliest other token is the contrast to a rejected one.
_CHOSEN = log(sum(map(exp, (2, 0.5, -1, 0, 1)))) - 2 + log(sum(map(exp, (0, 1.5, 1, -0.5, 0.2)))) - 1
_REJECTED = log(sum(map(exp, (1, 3, 2, 0, -1)))) - 3 + log(sum(map(exp, (0.5, 0.2, 2.5, 1.5, 0)))) - 0
_CONTRAST = softplus(3 - 2) + softplus(0 - 2.5)
_C5 = (
    PairLogps(t(-_CHOSEN), t(-_REJECTED), t(2), t(2)),
    PairLogps(t(0.0), t(0.0), t(2), t(2)),
)


def _cringe(b: float, tau: float, alpha: float) -> float:
    """Gate times loss, summed over tokens."""
    return sigmoid((b - (_REJECTED - _CHOSEN)) / tau) * (_CHOSEN + alpha * _CONTRAST)


CASES = [
    Case("simpo", "SimPO", P2, [
        # Mean log-probabilities: -2.5 against -2.5, and -2.53125 against -4.6875.
        Value({"beta": 2.0, "gamma": 1.0}, (softplus(1.0 - 2 * 0) + softplus(1.0 - 2 * 2.15625)) / 2),
        Value({"beta": 2.0, "gamma_beta_ratio": 0.5}, (softplus(1.0) + softplus(1.0 - 4.3125)) / 2),
        Value({"beta": 2.5, "gamma_beta_ratio": 0.55}, (softplus(1.375) + softplus(1.375 - 2.5 * 2.15625)) / 2),
        Value({"beta": 10.0, "gamma_beta_ratio": 0.3}, (softplus(3.0) + softplus(3.0 - 21.5625)) / 2),
        Value(
            {"beta": 2.0, "gamma": 1.0, "nll_weight": 0.5},
            (softplus(1.0) + softplus(1.0 - 4.3125)) / 2 + 0.5 * (12.5 + 20.25) / (5 + 8),
        ),
    ], per_token=True),
    Case("orpo", "ORPO", T2, [
        Value({"beta": 0.1}, 9.5 / 8 + 0.1 * _ODDS_RATIO, inputs=_T2),
        Value({"beta": 1.0}, 9.5 / 8 + _ODDS_RATIO, inputs=_T2),
        Value({"beta": 0.1, "nll_tokens": "prompt_and_response"}, 13.5 / 13 + 0.1 * _ODDS_RATIO),
        Value({"beta": 0.1, "nll_per": "examples"}, (4.5 / 5 + 5.0 / 3) / 2 + 0.1 * _ODDS_RATIO, inputs=_T2),
    ], per_token=True),
    Case("cpo", "CPO", _T2, [
        # Whole log-probabilities: -4.5 against -5, and -5 against -4.5.
        Value({"beta": 0.1}, (softplus(-0.05) + softplus(0.05)) / 2 + 9.5 / 8),
        Value({"beta": 0.5, "nll_weight": 0.5}, (softplus(-0.25) + softplus(0.25)) / 2 + 0.5 * 9.5 / 8),
        Value({"beta": 0.1, "nll_per": "sequence_sum"}, (softplus(-0.05) + softplus(0.05)) / 2 + 9.5 / 2),
        Value(
            {"beta": 0.1, "nll_per": "examples"}, (softplus(-0.05) + softplus(0.05)) / 2 + (4.5 / 5 + 5.0 / 3) / 2
        ),
        Value({"beta": 0.5, "nll_weight": 0.0}, (softplus(-0.25) + softplus(0.25)) / 2),
        Value(
            {"beta": 0.5, "nll_weight": 0.0, "label_smoothing": 0.1},
            (softplus(-0.25) + softplus(0.25)) / 2,  # 0.9 of one and 0.1 of the other, twice.
        ),
    ]),
    Case("slic_hf", "SLiCHF", P2, [
        # Without a text to stay close to it is the chosen response.
        Value({"delta": 4.0}, (4 - 2.5 + 4 + 1.5 + 0.1 * (12.5 + 20.25)) / 2),
        Value({"delta": 1.0, "reg_weight": 0.5}, (0 + 1 + 1.5 + 0.5 * (10 + 22)) / 2, inputs=_SLIC),
        Value({"delta": 4.0, "reg_weight": 0.1}, (4 - 2.5 + 4 + 1.5 + 0.1 * (10 + 22)) / 2, inputs=_SLIC),
        Value(
            {"delta": 1.0, "reg_weight": 0.5, "reg_target": "chosen"},
            (0 + 1 + 1.5 + 0.5 * (12.5 + 20.25)) / 2,
            inputs=_SLIC,
        ),
    ]),
    Case("tpo", "TriplePO", _GOLD, [
        # Gold texts of 4 and 9 tokens, or the chosen responses where there are none.
        Value({}, (softplus(-0.01 * 2.5) + softplus(0.01 * 1.5)) / 2 + (10 + 22) / 13),
        Value(
            {"beta": 0.5, "alpha": 0.1, "gamma": 0.3},
            (softplus(0.3 - 0.5 * 2.5) + softplus(0.3 + 0.5 * 1.5)) / 2 + 0.1 * (10 + 22) / 13,
        ),
        # Per token: -12.5 / 5 + 15 / 6 and -20.25 / 8 + 18.75 / 4.
        Value(
            {"beta": 2.0, "length_normalized": True, "gamma": 0.5, "label_smoothing": 0.2},
            (smooth(2 * 0 - 0.5, 0.2) + smooth(2 * 2.15625 - 0.5, 0.2)) / 2 + (10 + 22) / 13,
        ),
        Value({}, (softplus(-0.01 * 2.5) + softplus(0.01 * 1.5)) / 2 + (12.5 + 20.25) / 13, inputs=P2_ALONE),
    ]),
    Case("alpha_po", "AlphaPO", P2, [
        Value({"beta": 2.0, "gamma": 1.0, "alpha": 0.25}, _alpha_po(0.25)),
        Value({"beta": 2.0, "gamma": 1.0, "alpha": -0.5}, _alpha_po(-0.5)),
        # SimPO.
        Value({"beta": 2.0, "gamma": 1.0, "alpha": 0.0}, (softplus(1.0 - 2 * 0) + softplus(1.0 - 2 * 2.15625)) / 2),
        Value(
            {"beta": 2.0, "gamma": 1.0, "alpha": 0.25, "nll_weight": 0.5},
            _alpha_po(0.25) + 0.5 * (12.5 + 20.25) / (5 + 8),
        ),
    ], per_token=True),
    Case(
        "pairwise_cringe", "PairwiseCringe", _C5, [
            Value({"k": 1, "alpha": 0.5, "b": 1.0, "tau": 2.0, "reduction": "sum"}, _cringe(1.0, 2.0, 0.5)),
            Value({"k": 1, "alpha": 0.005, "b": -10.0, "tau": 10.0, "reduction": "sum"}, _cringe(-10.0, 10.0, 0.005)),
            # Two tokens on each side: a mean over either is half of the sum, one over both a quarter.
            Value({"k": 1, "alpha": 0.5, "b": 1.0, "tau": 2.0, "reduction": "token_mean"}, _cringe(1.0, 2.0, 0.5) / 2),
            Value({"k": 1, "alpha": 0.5, "b": 1.0, "tau": 2.0, "reduction": "pair_tokens"}, _cringe(1.0, 2.0, 0.5) / 4),
        ],
        facts={"contrast": PairValues(t(0.0), t(_CONTRAST))},
        # With more candidates the contrast is drawn at random, once for each order or layout of the tokens.
        training={"k": 1},
    ),
]  # fmt: skip
