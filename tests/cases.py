"""ONE ROW PER METHOD: expected losses written as arithmetic that a reader can follow.

The shared tests in `tests/methods/test_cases.py` put every row through values, gradients, invariances and training.
Fixtures: P2 is two pairs (log-ratio gaps 1.25 and -1.0), T2 two pairs without a reference, K4 four labelled completions
(log-ratios 1, -0.5, 0.25, 1; KL estimate 0.25), R3 three pairs of reward scores, S2 two texts.
"""

from __future__ import annotations

from math import exp, log
from typing import Any, NamedTuple

import torch

from lit_align.core.outputs import PairLogps, SequenceLogps


def t(*values: float) -> torch.Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    """log(1 + exp(x)) = -log sigmoid(-x)."""
    return log(1 + exp(x))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + exp(-x))


P2 = (
    PairLogps(t(-12.5, -20.25), t(-15.0, -18.75), t(5, 8), t(6, 4)),
    PairLogps(t(-13.0, -19.5), t(-14.25, -19.0), t(5, 8), t(6, 4)),
)
"""Two pairs under the policy and the reference: summed log-probabilities and lengths."""
T2 = (
    PairLogps(t(-4.5, -5.0), t(-5.0, -4.5), t(5, 3), t(3, 4), prompt=t(-3.0, -1.0), prompt_lengths=t(2, 3)),
    PairLogps(t(0.0, 0.0), t(0.0, 0.0), t(5, 3), t(3, 4)),
)
"""Two pairs without a reference; mean log-probabilities -0.9, -5/3 (chosen) and -5/3, -1.125 (rejected)."""
K4 = (
    SequenceLogps(t(-10.0, -12.0, -8.0, -9.5), t(3, 4, 2, 5)),
    SequenceLogps(t(-11.0, -11.5, -8.25, -10.5), t(3, 4, 2, 5)),
    torch.tensor([True, False, True, False]),
    t(0.25).squeeze(),
)
"""Four completions, their reference, their labels, and the KL estimate."""
R3 = (t(1.2, -0.3, 2.0), t(0.5, 0.1, 2.0), t(3.0, 1.0, 0.0))
"""Scores of three chosen and three rejected responses, and margins."""
S2 = (SequenceLogps(t(-6.0, -2.0), t(3, 5)),)
"""Two texts of 3 and 5 tokens."""


class Value(NamedTuple):
    """A loss under given constructor arguments."""

    kwargs: dict[str, Any]
    loss: float
    inputs: tuple[Any, ...] | None = None
    """Inputs that differ from the row's."""


class Case(NamedTuple):
    """One method."""

    slug: str
    """File in lit_align/methods and configs."""
    name: str
    """Class."""
    inputs: tuple[Any, ...]
    """Arguments of `losses`."""
    values: list[Value]
    accumulates: bool = True
    """Whether the loss of k micro-batches is that of one k times as large."""


def log_odds(mean_logp: float) -> float:
    """log(p / (1 - p))."""
    return mean_logp - log(1 - exp(mean_logp))


_ODDS = [log_odds(-0.9) - log_odds(-5 / 3), log_odds(-5 / 3) - log_odds(-1.125)]
_ODDS_RATIO = (softplus(-_ODDS[0]) + softplus(-_ODDS[1])) / 2

CASES = [
    Case("dpo", "DPO", P2, [
        Value({"beta": 0.1}, (softplus(-0.1 * 1.25) + softplus(0.1 * 1.0)) / 2),
        Value({"beta": 0.5}, (softplus(-0.5 * 1.25) + softplus(0.5 * 1.0)) / 2),
    ]),
    Case("cdpo", "ConservativeDPO", P2, [
        Value(
            {"beta": 0.1, "label_smoothing": 0.1},
            (0.9 * softplus(-0.125) + 0.1 * softplus(0.125) + 0.9 * softplus(0.1) + 0.1 * softplus(-0.1)) / 2,
        ),
    ]),
    Case("ipo", "IPO", P2, [
        # Per-token gaps: 0.5/5 + 0.75/6 = 0.225 and -0.75/8 - 0.25/4 = -0.15625; the target is 1 / (2 * 0.5) = 1.
        Value({"beta": 0.5}, ((0.225 - 1) ** 2 + (-0.15625 - 1) ** 2) / 2),
        Value({"beta": 0.5, "length_average": False}, ((1.25 - 1) ** 2 + (-1.0 - 1) ** 2) / 2),
    ]),
    Case("simpo", "SimPO", P2, [
        # Mean log-probabilities: -2.5 against -2.5, and -2.53125 against -4.6875.
        Value({"beta": 2.0, "gamma": 1.0}, (softplus(1.0 - 2 * 0) + softplus(1.0 - 2 * 2.15625)) / 2),
        Value({"beta": 2.0, "gamma_beta_ratio": 0.5}, (softplus(1.0) + softplus(1.0 - 4.3125)) / 2),
        Value(
            {"beta": 2.0, "gamma": 1.0, "nll_weight": 0.5},
            (softplus(1.0) + softplus(1.0 - 4.3125)) / 2 + 0.5 * (12.5 + 20.25) / (5 + 8),
        ),
    ]),
    Case("orpo", "ORPO", T2, [
        Value({"beta": 0.1}, 9.5 / 8 + 0.1 * _ODDS_RATIO, inputs=(T2[0]._replace(prompt=None), T2[1])),
        Value({"beta": 1.0}, 9.5 / 8 + _ODDS_RATIO, inputs=(T2[0]._replace(prompt=None), T2[1])),
        Value({"beta": 0.1, "nll_tokens": "prompt_and_response"}, 13.5 / 13 + 0.1 * _ODDS_RATIO),
        Value(
            {"beta": 0.1, "nll_per": "examples"},
            (4.5 / 5 + 5.0 / 3) / 2 + 0.1 * _ODDS_RATIO,
            inputs=(T2[0]._replace(prompt=None), T2[1]),
        ),
    ]),
    Case("kto", "KTO", K4, [
        # beta * (log-ratio - KL) is 0.075, -0.075, 0 and 0.075.
        Value({"beta": 0.1}, (sigmoid(-0.075) + sigmoid(-0.075) + 0.5 + sigmoid(0.075)) / 4),
        Value(
            {"beta": 0.5, "desirable_weight": 1.33},
            (1.33 * sigmoid(-0.375) + sigmoid(-0.375) + 1.33 * 0.5 + sigmoid(0.375)) / 4,
        ),
    ], accumulates=False),
    Case("sft", "SFT", S2, [
        Value({}, (6 + 2) / (3 + 5)),
        Value({"reduction": "sequences"}, (6 / 3 + 2 / 5) / 2),
    ]),
    Case("bradley_terry", "BradleyTerry", R3, [
        Value({"use_margin": False}, (softplus(-0.7) + softplus(0.4) + log(2)) / 3),
        Value({}, (softplus(3 - 0.7) + softplus(1 + 0.4) + log(2)) / 3),
        Value(
            {"use_margin": False, "center": 0.01},
            (softplus(-0.7) + softplus(0.4) + log(2)) / 3 + 0.01 * (1.7**2 + 0.2**2 + 4**2) / 3,
        ),
        Value(
            {"use_margin": False, "l2": 0.001},
            (softplus(-0.7) + softplus(0.4) + log(2)) / 3
            + 0.001 * (1.2**2 + 0.3**2 + 2**2 + 0.5**2 + 0.1**2 + 2**2) / 6,
        ),
    ]),
]  # fmt: skip
