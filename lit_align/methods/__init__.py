"""The methods: one file each, and in it one public class.

A new file is all it takes: names are read from the files, and a class loads when it is first asked for.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

_CLASS = re.compile(r"^class ([A-Za-z]\w*)[(:]", re.MULTILINE)


def public_classes(folder: Path) -> dict[str, str]:
    """Public classes of the public modules in a folder, by the text of the files.

    Nothing is imported, so that `import lit_align` knows the methods without waiting for torch.

    Args:
        folder: where the modules lie.

    Returns:
        Name of the class: name of its module; ordered by module.
    """
    files = sorted(folder.glob("[!_]*.py"))
    return {name: file.stem for file in files for name in _CLASS.findall(file.read_text(encoding="utf-8"))}


MODULES = public_classes(Path(__file__).parent)
"""The module of each method's class."""

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    """Import a method when it is first asked for (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"module 'lit_align.methods' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return getattr(importlib.import_module(f"lit_align.methods.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *MODULES})
