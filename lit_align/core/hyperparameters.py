"""Arguments of a method as checkpoints can hold them: readable without running code."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_PLAIN: tuple[type[Any], ...] = (bool, int, float, str)


def as_plain(value: Any) -> Any:
    """A path as text, a number of numpy and an instance of a class derived from a plain type as that type.

    So are those in lists, tuples and dicts; anything else is returned as it is.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    for kind in _PLAIN:
        if isinstance(value, kind):
            # As text, members of an enumeration are their names.
            return value if type(value) is kind else kind(getattr(value, "value", value))
    if type(value) in (list, tuple):
        return type(value)(map(as_plain, value))
    if isinstance(value, dict):
        return {as_plain(key): as_plain(part) for key, part in value.items()}
    return value


def savable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a checkpoint can hold, as plain types where they can be; without those that it cannot."""
    plain = {name: as_plain(value) for name, value in arguments.items()}
    return {name: value for name, value in plain.items() if _loads_safely(value)}


def _loads_safely(value: Any) -> bool:
    """Whether `torch.load` reads the value back without running any code of it."""
    if value is None or type(value) in _PLAIN:
        return True
    written = io.BytesIO()
    try:
        torch.save(value, written)
        written.seek(0)
        torch.load(written, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True
