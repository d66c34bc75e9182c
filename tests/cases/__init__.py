"""ONE ROW PER METHOD: expected losses written as arithmetic that a reader can follow.

The shared tests in `tests/methods/` put every row through values, gradients, invariances, training and resuming.
"""

from __future__ import annotations

from tests.cases import lists, others, pairs, pairs_alone, pairs_robust, rewards, unpaired
from tests.cases.row import Case, Value

__all__ = ["CASES", "Case", "Value"]

CASES = [
    *pairs.CASES, *pairs_robust.CASES, *pairs_alone.CASES, *lists.CASES, *unpaired.CASES, *others.CASES, *rewards.CASES,
]  # fmt: skip
