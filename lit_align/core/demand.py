"""What a method asks of every row of its data, so that bad numbers are found when data are read, not while training."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Neutral = Literal["positive", "negative", "ignore"]
"""What a step counts as that is neither right nor wrong."""


class Demand(NamedTuple):
    """One thing that every row must have, and for numbers the range in which they must lie."""

    name: Literal["margin", "scores", "timestamp", "target"]
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False
    """Whether `low` itself is too low."""
    fix: str = ""
    """What to do about a number outside of the range."""

    def allows(self, value: float) -> bool:
        """Whether a number lies in the range."""
        return (self.low < value if self.strict else self.low <= value) and value <= self.high

    @property
    def wanted(self) -> str:
        """The range in words, as in "margins above 0"."""
        return f"above {self.low:g}" if self.strict else f"from {self.low:g} to {self.high:g}"


class StepLabelling(NamedTuple):
    """Which steps of a solution a method learns from."""

    last_only: bool = False
    """Only the last step, whose label is then that of the outcome."""
    until_first_error: bool = False
    """No step after the first wrong one."""
    neutral: Neutral = "positive"
    """What a step counts as that is neither right nor wrong (0 among -1, 0 and 1)."""
