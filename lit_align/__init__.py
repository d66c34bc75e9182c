"""lit-align: preference alignment of language models for PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lit_align.methods import __all__ as _METHODS

if TYPE_CHECKING:
    from lit_align.data.module import PreferenceDataModule
    from lit_align.trainer import AlignTrainer as Trainer

__version__ = "0.1.0"

# Public names and where they live, `module` or `module:name there`. They load on first use, so that
# `import lit_align` and `lit-align --help` stay instant.
_PUBLIC = {
    **dict.fromkeys(_METHODS, "lit_align.methods"),
    "Trainer": "lit_align.trainer:AlignTrainer",
    "PreferenceDataModule": "lit_align.data.module",
}

# In two steps, of which a type checker reads the first; to it, a method is of any type.
__all__ = ["PreferenceDataModule", "Trainer", "__version__"]
__all__ += _METHODS


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_PUBLIC})
