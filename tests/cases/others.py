"""Rows of the methods on demonstrations, judgments and paraphrases, and of reward models."""

from __future__ import annotations

from math import log

from tests.cases.row import S2, Case, Value, softplus, t

R3 = (t(1.2, -0.3, 2.0), t(0.5, 0.1, 2.0), t(3.0, 1.0, 0.0))
"""Scores of three chosen and three rejected responses, and margins."""

CASES = [
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
