"""Build sdist -> wheel, install the wheel in a clean environment, and use it from another directory.

Only lit-align itself is installed there. Its dependencies are read from the environment that runs this script,
through a path entry, which does not execute the hook of the editable install: what is imported is the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = (
    "lit_align/py.typed",
    "lit_align/callbacks/__init__.py",
    "lit_align/configs/dpo.yaml",
    "lit_align/configs/trainer/cpu.yaml",
    "lit_align/methods/dpo.py",
)
USE = """
import pathlib, sys
import lit_align, lit_align.callbacks, lit_align.configs, lit_align.methods
home = pathlib.Path(lit_align.__file__).resolve()
assert pathlib.Path(sys.prefix).resolve() in home.parents, f"imported from {home}, not from the wheel"
assert lit_align.DPO.__module__ == "lit_align.methods.dpo"
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; stop with all of its output where it fails."""
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def check_contents(wheel: Path) -> None:
    """Stop if the wheel lacks a file or holds one that would be installed outside of `lit_align`."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in EXPECTED if name not in names]
    strays = [name for name in names if not name.startswith(("lit_align/", "lit_align-"))]
    if missing or strays:
        sys.exit(f"{wheel.name}: missing {missing}, outside of the package {strays}")


def clean_environment(folder: Path) -> Path:
    """Make a virtual environment that sees this one's dependencies but not its lit-align; return its bin."""
    venv.create(folder, with_pip=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    here = sysconfig.get_paths()
    (Path(paths["purelib"]) / "dependencies.pth").write_text(f"{here['purelib']}\n{here['platlib']}\n")
    return Path(paths["scripts"])


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory(prefix="lit-align-") as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        check_contents(wheel)
        scripts = clean_environment(folder / "clean")
        run(scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
        run(scripts / "python", "-c", USE, cwd=folder)
        for arguments in (["--help"], ["--version"], ["methods"], ["configs", "list"], ["configs", "show", "dpo"]):
            if not run(scripts / "lit-align", *arguments, cwd=folder).strip():
                sys.exit(f"`lit-align {' '.join(arguments)}` printed nothing")
        print(f"{wheel.name}: built from its sdist, installed and used in a clean environment")


if __name__ == "__main__":
    main()
