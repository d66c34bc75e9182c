"""Where reference log-probabilities come from."""

from __future__ import annotations

from pathlib import Path

from lit_align.core.errors import ConfigError
from lit_align.references.adapters_off import AdaptersOff
from lit_align.references.base import Reference
from lit_align.references.frozen_copy import FrozenCopy
from lit_align.references.named_adapter import NamedAdapter
from lit_align.references.none import NoReference
from lit_align.references.other_model import OtherModel
from lit_align.references.precomputed import Precomputed

__all__ = [
    "AdaptersOff",
    "FrozenCopy",
    "NamedAdapter",
    "NoReference",
    "OtherModel",
    "Precomputed",
    "Reference",
    "resolve_reference",
]

_BY_NAME: dict[str, type[Reference]] = {
    "frozen_copy": FrozenCopy,
    "adapters_off": AdaptersOff,
    "named_adapter": NamedAdapter,
    "precomputed": Precomputed,
    "none": NoReference,
}


def resolve_reference(choice: Reference | str, *, has_adapters: bool, will_refresh: bool) -> Reference:
    """The reference that `choice` names.

    Args:
        choice: a name; the folder or, with a slash in it, the hub name of another model; or a reference object, which
            is returned as it is.
        has_adapters: whether the policy has adapters.
        will_refresh: whether a callback will refresh the reference.

    Raises:
        ConfigError: the name is unknown.
    """
    if isinstance(choice, Reference):
        return choice
    if choice == "auto":
        if not has_adapters:
            return FrozenCopy()
        return NamedAdapter() if will_refresh else AdaptersOff()
    if choice in _BY_NAME:
        return _BY_NAME[choice]()
    if "/" in choice or Path(choice).is_dir():
        return OtherModel(choice)
    raise ConfigError(
        "unknown reference",
        got=f"reference: {choice}",
        fix=f"one of auto, {', '.join(_BY_NAME)}, or the folder or hub name of another model",
    )
