"""Rows of the methods on single completions with a label or a score."""

from __future__ import annotations

from math import exp, log

import torch

from lit_align.core.outputs import SequenceLogps
from tests.cases.row import K4, K4_NO_KL, Case, Value, sigmoid, softplus, t

_ONES = t(1, 1, 1, 1)
U4 = (
    SequenceLogps(t(-12.0, -8.5, -20.25, -11.0), _ONES),
    SequenceLogps(t(-12.5, -8.0, -19.0, -10.5), _ONES),
    torch.tensor([True, False, True, False]),
    t(0.0).squeeze(),
)
"""Four completions, log-ratios 0.5, -0.5, -1.25 and -0.5."""
U4_SCORES = (*U4[:2], t(0.9, 0.2, 0.55, 0.4))
U4_REWARDS = (*U4[:2], t(0.4, -0.3, 0.1, 0.0))

N4 = (
    # The last two are kept: 5 + 2 nats over 3 + 1 tokens are 1.75 nats per token.
    SequenceLogps(t(-10.0, -25.0, -5.0, -2.0), t(4, 9, 3, 1)),
    SequenceLogps(t(-8.0, -20.0, -4.0, -3.0), t(4, 9, 3, 1)),
    torch.tensor([False, False, True, True]),
    t(0.0).squeeze(),
)
"""Two completions to forget, log-ratios -2 and -5, and two to keep."""

# Logits [2, 0.5, -1, 0, 1] and [0, 1.5, 1, -0.5, 0.2] at the good tokens 0 and 2.
_GOOD = log(sum(map(exp, (2, 0.5, -1, 0, 1)))) - 2 + log(sum(map(exp, (0, 1.5, 1, -0.5, 0.2)))) - 1
# Logits [1, 3, 2, 0, -1] and [0.5, 0.2, 2.5, 1.5, 0] at the bad tokens 1 and 4; the likeliest others have 2 and 2.5.
_BAD = softplus(3 - 2.0) + softplus(0 - 2.5)
# The second and the third likeliest others.
_BAD_DRAWN = softplus(3 - 1.0) + softplus(0 - 0.5)
C2 = (
    SequenceLogps(t(-_GOOD, -5.0), t(2, 2)),
    SequenceLogps(t(0.0, 0.0), t(2, 2)),
    torch.tensor([True, False]),
    t(0.0).squeeze(),
)
"""A good and a bad completion of two tokens each."""

_SQUARES = [(sigmoid(r) - y) ** 2 for r, y in ((0.25, 1), (-0.25, 0), (-0.625, 1), (-0.25, 0))]

CASES = [
    Case("kto", "KTO", K4, [
        # beta * (log-ratio - KL) is 0.075, -0.075, 0 and 0.075.
        Value({"beta": 0.1}, (sigmoid(-0.075) + sigmoid(-0.075) + 0.5 + sigmoid(0.075)) / 4),
        Value(
            {"beta": 0.5, "desirable_weight": 1.33},
            (1.33 * sigmoid(-0.375) + sigmoid(-0.375) + 1.33 * 0.5 + sigmoid(0.375)) / 4,
        ),
    ], accumulates=False),  # The estimate of the KL belongs to a micro-batch, in the paper too.
    Case("apo_zero_unpaired", "APOZeroUnpaired", K4_NO_KL, [
        Value({"beta": 0.1}, (sigmoid(-0.1) + sigmoid(-0.05) + sigmoid(-0.025) + sigmoid(0.1)) / 4),
        Value({"beta": 0.5}, (sigmoid(-0.5) + sigmoid(-0.25) + sigmoid(-0.125) + sigmoid(0.5)) / 4),
        Value(
            {"beta": 0.1, "desirable_weight": 1.33, "undesirable_weight": 0.5},
            (1.33 * sigmoid(-0.1) + 0.5 * sigmoid(-0.05) + 1.33 * sigmoid(-0.025) + 0.5 * sigmoid(0.1)) / 4,
        ),
    ]),
    Case("bco", "BCO", K4_NO_KL, [
        # Rewards 0.1, -0.05, 0.025 and 0.1 have the mean 0.04375.
        Value({"beta": 0.1}, (softplus(-0.05625) + softplus(-0.09375) + softplus(0.01875) + softplus(0.05625)) / 4),
        Value(
            {"beta": 0.1, "desirable_weight": 2.0, "undesirable_weight": 0.5},
            (2 * softplus(-0.05625) + softplus(-0.09375) / 2 + 2 * softplus(0.01875) + softplus(0.05625) / 2) / 4,
        ),
    ], accumulates=False, couples=True, stops_gradient=True),  # The mean reward is that of what was seen so far.
    Case("una_binary", "UNABinary", U4, [
        Value({"beta": 0.5}, (softplus(-0.25) + softplus(-0.25) + softplus(0.625) + softplus(-0.25)) / 4),
        Value({"beta": 0.5, "loss": "mse"}, sum(_SQUARES) / 4),
    ]),
    Case("una_score", "UNAScore", U4_SCORES, [
        Value(
            {"beta": 0.03},
            sum((sigmoid(r) - s) ** 2 for r, s in ((0.015, 0.9), (-0.015, 0.2), (-0.0375, 0.55), (-0.015, 0.4))) / 4,
        ),
        Value(
            {"beta": 0.03, "loss": "raw"},
            ((0.015 - 0.4) ** 2 + (-0.015 + 0.3) ** 2 + (-0.0375 - 0.1) ** 2 + 0.015**2) / 4,
            inputs=U4_REWARDS,
        ),
        Value(
            {"beta": 0.03, "loss": "raw", "score_center": 0.2},
            ((0.015 - 0.2) ** 2 + (-0.015 + 0.5) ** 2 + (-0.0375 + 0.1) ** 2 + (-0.015 + 0.2) ** 2) / 4,
            inputs=U4_REWARDS,
        ),
        # Of -1 to 3, a score of 0 is a quarter of the way: log(0.25 / 0.75) is added to each reward.
        Value(
            {"beta": 0.03, "score_range": (-1.0, 3.0), "score_center": 0.0},
            sum(
                (sigmoid(r - log(3)) - (1 + s) / 4) ** 2
                for r, s in ((0.015, 0.4), (-0.015, -0.3), (-0.0375, 0.1), (-0.015, 0.0))
            ) / 4,
            inputs=U4_REWARDS,
        ),
    ], directed=False),  # Whether a completion becomes likelier depends on its score.
    Case("npo", "NPO", N4, [
        Value({"beta": 0.1}, 20 * (softplus(-0.2) + softplus(-0.5)) / 2 + 1.75),
        Value({"beta": 0.1, "retain_weight": 0.0}, 20 * (softplus(-0.2) + softplus(-0.5)) / 2),
        Value({"beta": 1.0, "retain_weight": 0.0}, 2 * (softplus(-2) + softplus(-5)) / 2),
        Value(
            {"beta": 1.0, "retain_weight": 0.5, "kl_weight": 3.0},
            2 * (softplus(-2) + softplus(-5)) / 2 + 0.5 * 1.75 + 3 * (0.25 + 0.5) / 4,
            facts={"divergence": t(7.0, 8.0, 0.25, 0.5)},
        ),
    ], training={"beta": 0.3, "retain_weight": 0.5, "kl_weight": 0.5}),  # All its terms.
    Case("binary_cringe", "BinaryCringe", C2, [
        Value({}, (_GOOD + _BAD) / 4),
        Value({"alpha": 0.5, "k": 3}, (_GOOD + 0.5 * _BAD_DRAWN) / 4, facts={"contrast": t(9.0, _BAD_DRAWN)}),
        Value({"alpha": 0.5}, (_GOOD + 0.5 * _BAD) / 4),
        Value({"alpha": 0.5, "reduction": "sum"}, (_GOOD + 0.5 * _BAD) / 2),
        Value({"alpha": 0.5, "reduction": "token_mean"}, (_GOOD / 2 + 0.5 * _BAD / 2) / 2),
    ], facts={"contrast": t(9.0, _BAD)}, directed=False),  # Bad completions are pushed by their tokens' contrast.
]  # fmt: skip
