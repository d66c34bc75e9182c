"""How many of a set are kept, where a share of it is dropped."""

from __future__ import annotations

import math

_ROUNDING = 1e-9


def number_kept(number: int, dropped: float) -> int:
    """The number of things that are left, rounded down, but never none.

    Args:
        number: how many there are, at least 1.
        dropped: share that is dropped, in [0, 1).

    Returns:
        floor(number * (1 - dropped)), at least 1.
    """
    # (1 - 0.7) * 10 is a little less than 3.
    return max(1, math.floor(number * (1 - dropped) + _ROUNDING))
