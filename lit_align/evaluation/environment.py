"""What a run was made with and how it was called, for run.json and for the pages; no names of hosts or users."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lit_align import __version__

_PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "peft", "bitsandbytes", "torchmetrics",
             "jsonargparse", "matplotlib", "numpy")  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of this process and its machine, by name."""
    found = {"lit-align": __version__, "Python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        # Already imported or merely installed: the metadata know without an import.
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["processors"] = str(os.cpu_count())
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        found["CUDA"] = str(sys.modules["torch"].version.cuda)
        found["GPU"] = sys.modules["torch"].cuda.get_device_name()
    return found


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command that started this process, as one would type it on another machine.

    Args:
        arguments: the program and what it was given; None: `sys.argv`.
    """
    program, *rest = sys.argv if arguments is None else arguments
    path = Path(program)
    own = path.name == "lit-align" or (path.name == "__main__.py" and path.parent.name == "lit_align")
    return shlex.join([*(["lit-align"] if own else ["python", path.name]), *rest])


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
