"""Rows of the methods on ranked lists."""

from __future__ import annotations

from math import exp, log, log1p

import torch

from tests.cases.row import L4, Case, Value, in_list, sigmoid, softplus, t

_NO_4 = in_list(0.0, 0.0, 0.0, 0.0, lengths=(5, 3, 4, 6))
_NO_3 = in_list(0.0, 0.0, 0.0, lengths=(5, 4, 6))

R4 = (in_list(-4.0, -3.0, -2.0, -7.5, lengths=(5, 3, 4, 6)), _NO_4, t(2.0, 1.5, 1.0, 0.5)[None])
"""A list of four without a reference; means -0.8, -1, -0.5 and -1.25."""
R3 = (in_list(-4.0, -4.4, -5.4, lengths=(5, 4, 6)), _NO_3, t(2.0, 1.5, 0.25)[None])
"""A list of three without a reference; means -0.8, -1.1 and -0.9."""
Q3 = (in_list(-10.0, -14.0, -7.0), in_list(-11.0, -12.0, -10.0), t(0.9, 0.5, 0.1)[None])
"""A list of three with labels in [0, 1]; log-ratios 1, -2 and 3, so that the policy's order is third, first, second."""
E2 = (in_list(-1.0, -0.8), in_list(-1.3, -0.6), t(1.0, 0.2)[None])
"""A list of two; log-ratios 0.3 and -0.2."""


def _softmax(*values: float) -> list[float]:
    """Shares."""
    total = sum(map(exp, values))
    return [exp(value) / total for value in values]


def _entropy(p: list[float], q: list[float]) -> float:
    """Cross entropy of q under p."""
    return -sum(a * log(b) for a, b in zip(p, q, strict=True))


_LABELS = _softmax(8 / 2, 6 / 2, 3 / 2, 1 / 2)
_REWARDS = [0.5, -0.5, 0.25, -0.5]


def _discount(place: int) -> float:
    """One over log(1 + place)."""
    return 1 / log1p(place)


# The policy's places of the three responses are 2, 3 and 1.
_GAINS = {
    (0, 1): (2**0.9 - 2**0.5) * (_discount(2) - _discount(3)),
    (0, 2): (2**0.9 - 2**0.1) * (_discount(1) - _discount(2)),
    (1, 2): (2**0.5 - 2**0.1) * (_discount(1) - _discount(3)),
}


def _lipo(beta: float, gains: dict[tuple[int, int], float] = _GAINS) -> float:
    """Weighted logistic losses of the three pairs."""
    ratios = (1, -2, 3)
    return sum(gain * softplus(-beta * (ratios[i] - ratios[j])) for (i, j), gain in gains.items())


# Win rates of scores 0.9, 0.5 and 0.1 against the list, each against itself by a half.
_WINS = [(0.5 + sigmoid(0.4) + sigmoid(0.8)) / 3, 0.5, (0.5 + sigmoid(-0.4) + sigmoid(-0.8)) / 3]
_WIN_GAINS = {
    (0, 1): (2 ** _WINS[0] - 2 ** _WINS[1]) * (_discount(2) - _discount(3)),
    (0, 2): (2 ** _WINS[0] - 2 ** _WINS[2]) * (_discount(1) - _discount(2)),
    (1, 2): (2 ** _WINS[1] - 2 ** _WINS[2]) * (_discount(1) - _discount(3)),
}

_EXO = (_softmax(0.5 * 0.3, 0.5 * -0.2), _softmax(1.0 / 0.5, 0.2 / 0.5))

CASES = [
    Case("infonca", "InfoNCA", L4, [
        Value({"beta": 0.5, "reward_temperature": 2.0}, _entropy(_LABELS, _softmax(*_REWARDS))),
        Value(
            {"beta": 0.01, "reward_temperature": 1e-4}, -log(_softmax(0.01, -0.01, 0.005, -0.01)[0])
        ),
    ]),
    Case("nca", "NCA", L4, [
        Value(
            {"beta": 0.5, "reward_temperature": 2.0},
            sum(
                label * softplus(-reward) + softplus(reward) / 4
                for label, reward in zip(_LABELS, _REWARDS, strict=True)
            ),
        ),
        Value(
            {"beta": 0.01, "reward_temperature": 1e-4},
            softplus(-0.01) + (softplus(0.01) + softplus(-0.01) + softplus(0.005) + softplus(-0.01)) / 4,
        ),
    ]),
    # The softmax of whole log-ratios is far from its target after one step at the tests' learning rate.
    Case("exo_list", "ListwiseEXO", E2, [
        Value({"beta": 0.5, "reward_temperature": 0.5}, _entropy(_EXO[0], _EXO[1]) - _entropy(_EXO[0], _EXO[0])),
    ], training={"learning_rate": 1e-4}),
    Case("rrhf", "RRHF", R4, [
        # The third is likelier than the first and the second, by 0.3 and 0.5 a token.
        Value({}, 0.3 + 0.5 + 4),
        Value({"rank_weight": 100.0}, 100 * 0.8 + 4),
        # Whole log-probabilities: -4, -3, -2, -7.5.
        Value({"length_penalty": 0.0}, (4 - 3) + (4 - 2) + (3 - 2) + 4),
    ], per_token=True, directed=False),  # The worst response is the least likely, where the hinge is flat.
    Case("pro", "PRO", R3, [
        # Differences of rewards: 0.5 and 1.75 from the first, 1.25 from the second.
        Value(
            {},
            1.75 * 0.8 + log(exp(-1.75 * 0.8) + exp(-0.5 * 1.1) + exp(-1.75 * 0.9))
            + 1.25 * 1.1 + log(exp(-1.25 * 1.1) + exp(-1.25 * 0.9))
            + 0.05 * 2**2 * 4,
        ),
        Value(
            {"use_temperature": False},
            0.8 + log(exp(-0.8) + exp(-1.1) + exp(-0.9)) + 1.1 + log(exp(-1.1) + exp(-0.9)) + 0.2 * 4,
        ),
    ], per_token=True),
    Case("lipo", "LiPO", Q3, [
        Value({"reward_temperature": None}, _lipo(0.05)),
        # Three pairs in a list of three.
        Value({"reward_temperature": None, "mode": "rax"}, _lipo(0.05) * 3 * log(2) / 3),
        Value({"reward_temperature": None, "beta": 1.0}, _lipo(1.0)),
        Value({}, _lipo(0.05, _WIN_GAINS)),
    ]),
    Case("best_of_k", "BestOfK", L4, [
        Value({}, 10 / 5),
        Value({"reduction": "sequences"}, (10 / 5 + 8 / 2) / 2, inputs=(
            *(pair._replace(
                sums=torch.cat([pair.sums, t(-8.0, -2.0, -3.0, 0.0)[None]]),
                lengths=torch.cat([pair.lengths, t(2, 2, 2, 0)[None]]),
                mask=torch.tensor([[True] * 4, [True, True, True, False]]),
            ) for pair in L4[:2]),
            t(8.0, 6.0, 3.0, 1.0, 3.0, 2.0, 1.0, 0.0).reshape(2, 4),
        )),
        Value({}, (10 + 8) / (5 + 2), inputs=(
            *(pair._replace(
                sums=torch.cat([pair.sums, t(-8.0, -2.0, -3.0, 0.0)[None]]),
                lengths=torch.cat([pair.lengths, t(2, 2, 2, 0)[None]]),
                mask=torch.tensor([[True] * 4, [True, True, True, False]]),
            ) for pair in L4[:2]),
            t(8.0, 6.0, 3.0, 1.0, 3.0, 2.0, 1.0, 0.0).reshape(2, 4),
        )),
    ], directed=False),  # Only the best response has a gradient.
]  # fmt: skip
