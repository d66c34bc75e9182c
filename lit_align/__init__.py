"""lit-align: preference alignment of language models for PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names and where they live, `module` or `module:name there`. They load on first use, so that
# `import lit_align` and `lit-align --help` stay instant.
_PUBLIC = {
    "Trainer": "lit_align.trainer:AlignTrainer",
    "PreferenceDataModule": "lit_align.data.module",
    "SFT": "lit_align.methods.sft",
    "DPO": "lit_align.methods.dpo",
    "ConservativeDPO": "lit_align.methods.cdpo",
    "IPO": "lit_align.methods.ipo",
    "SimPO": "lit_align.methods.simpo",
    "ORPO": "lit_align.methods.orpo",
    "KTO": "lit_align.methods.kto",
    "BradleyTerry": "lit_align.methods.bradley_terry",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_PUBLIC})
