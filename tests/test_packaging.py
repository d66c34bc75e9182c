"""What gets installed, and under which names."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import lit_align

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[1]
MAPPED = {"lit_align.callbacks": "callbacks", "lit_align.configs": "configs"}


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_list_of_packages_is_that_of_the_folders(pyproject):
    inside = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "lit_align").rglob("__init__.py")
        if "__pycache__" not in path.parts
    }
    linked = {name for name, folder in MAPPED.items() if (ROOT / folder / "__init__.py").exists()}
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(inside | linked)


def test_mapped_folders_are_mapped(pyproject):
    mapping = pyproject["tool"]["setuptools"]["package-dir"]
    assert {name: mapping[name] for name in MAPPED} == MAPPED


@pytest.mark.parametrize(("name", "folder"), MAPPED.items())
def test_mapped_folders_have_relative_links(name, folder):
    link = ROOT / "lit_align" / folder
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{folder}"
    assert link.resolve() == ROOT / folder
    assert Path(importlib.import_module(name).__file__).resolve().parent == ROOT / folder


def test_one_version(pyproject):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert pyproject["project"]["version"] == lit_align.__version__
    assert re.search(rf"^## \[({re.escape(lit_align.__version__)}|Unreleased)\]", changelog, re.MULTILINE)


def test_the_malicious_uploads_of_lightning_are_excluded(pyproject):
    """2.6.2 and 2.6.3 (GHSA-w37p-236h-pfx3)."""
    (requirement,) = [r for r in pyproject["project"]["dependencies"] if r.startswith("lightning")]
    lowest = tuple(int(part) for part in re.search(r">=([\d.]+)", requirement)[1].split("."))
    assert lowest > (2, 6, 3)


def test_constraints_satisfy_the_requirements(pyproject):
    packaging = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [packaging.Requirement(line) for line in lines if line and not line.startswith("#")]
    checked = 0
    for text in pyproject["project"]["dependencies"]:
        requirement = packaging.Requirement(text)
        for pin in pins:
            if pin.name == requirement.name:
                (exact,) = pin.specifier
                assert requirement.specifier.contains(exact.version), f"{text}, {pin}"
                checked += 1
    assert checked >= 8


def test_public_names_load():
    for name in lit_align.__all__:
        assert getattr(lit_align, name) is not None
    assert set(lit_align.__all__) <= set(dir(lit_align))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'PPO'"):
        _ = lit_align.PPO
