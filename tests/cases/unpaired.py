"""Rows of the methods on single completions with a label or a score."""

from __future__ import annotations

from tests.cases.row import K4, Case, Value, sigmoid

CASES = [
    Case("kto", "KTO", K4, [
        # beta * (log-ratio - KL) is 0.075, -0.075, 0 and 0.075.
        Value({"beta": 0.1}, (sigmoid(-0.075) + sigmoid(-0.075) + 0.5 + sigmoid(0.075)) / 4),
        Value(
            {"beta": 0.5, "desirable_weight": 1.33},
            (1.33 * sigmoid(-0.375) + sigmoid(-0.375) + 1.33 * 0.5 + sigmoid(0.375)) / 4,
        ),
    ], accumulates=False),  # The estimate of the KL belongs to a micro-batch, in the paper too.
]  # fmt: skip
