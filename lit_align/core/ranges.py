"""Checks of numbers that a user sets: each returns the number, or says which range it must lie in."""

from __future__ import annotations

import math

from lit_align.core.errors import ConfigError
from lit_align.core.hyperparameters import as_plain


def positive(name: str, value: float) -> float:
    """A number above 0.

    Raises:
        ConfigError: it is not.
    """
    return _checked(value > 0, name, value, "above 0")


def not_negative(name: str, value: float) -> float:
    """A number of 0 or more.

    Raises:
        ConfigError: it is not.
    """
    return _checked(value >= 0, name, value, "0 or more")


def share(name: str, value: float, below: float = 1.0) -> float:
    """A share in [0, below).

    Raises:
        ConfigError: it is not.
    """
    return _checked(0 <= value < below, name, value, f"at least 0 and below {below:g}")


def up_to_one(name: str, value: float) -> float:
    """A share in [0, 1].

    Raises:
        ConfigError: it is not.
    """
    return _checked(0 <= value <= 1, name, value, "from 0 to 1")


def finite(name: str, value: float) -> float:
    """A number of any sign.

    Raises:
        ConfigError: it is infinite or NaN.
    """
    return _checked(math.isfinite(value), name, value, "that is finite")


def _checked(fits: bool, name: str, value: float, wanted: str) -> float:
    if not fits:
        raise ConfigError("a setting is out of range", got=f"{name}: {value}", fix=f"give a number {wanted}")
    # Numbers of numpy would end up in checkpoints, which hold plain types only.
    plain: float = as_plain(value)
    return plain
