"""What a method may require of a callback; the module's `setup` checks that some callback provides it."""

from __future__ import annotations

from enum import Enum


class Capability(str, Enum):
    """A service that a method needs and a callback gives."""

    REFERENCE_REFRESH = "reference_refresh"
    DATA_REGENERATION = "data_regeneration"
    ADAPTERS = "adapters"
