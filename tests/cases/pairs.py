"""Rows of the classic methods on pairs with a reference."""

from __future__ import annotations

from tests.cases.row import P2, Case, Value, softplus

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
]  # fmt: skip
