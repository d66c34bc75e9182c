"""The rules of the house that a machine can check: what a method consists of, who imports whom, how long files are."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

import lit_align.methods
from lit_align.core.module import AlignmentModule
from tests.cases import CASES
from tests.rows import loop_of

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("lit_align", "callbacks", "configs")
    for path in (ROOT / folder).rglob("*.py")
    # The links lead to folders that are listed themselves.
    if not {"callbacks", "configs"} & set(path.relative_to(ROOT).parts[1:])
)
METHODS = sorted(path.stem for path in (ROOT / "lit_align" / "methods").glob("[!_]*.py"))


def _name(path: Path) -> str:
    """Dotted name under which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "lit_align" else ("lit_align", *parts)
    return ".".join(part for part in parts if part != "__init__")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -------------------------------------------------------------------- methods


def _classes(slug: str) -> list[type[AlignmentModule]]:
    module = importlib.import_module(f"lit_align.methods.{slug}")
    own = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    return [cls for cls in own if issubclass(cls, AlignmentModule) and not inspect.isabstract(cls)]


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*(_subclasses(child) for child in cls.__subclasses__()))


@pytest.mark.parametrize("slug", METHODS)
def test_a_method_file_holds_one_method_and_no_other_public_class(slug):
    """Its text tells the package the name of the method, before anything is imported."""
    (cls,) = _classes(slug)
    assert [name for name, module in lit_align.methods.MODULES.items() if module == slug] == [cls.__name__]
    assert getattr(lit_align, cls.__name__) is cls


def test_methods_have_names_of_their_own():
    loaded = [getattr(lit_align, name) for name in lit_align.__all__] + _callbacks()
    everything = [cls.__name__ for cls in _subclasses(AlignmentModule) | _subclasses(Callback)]
    assert len({*loaded}) == len(loaded)
    assert [name for name in lit_align.methods.__all__ if everything.count(name) != 1] == []


def test_names_of_methods_are_read_from_the_text_of_their_files(tmp_path):
    (tmp_path / "hinge.py").write_text(
        '"""Hinge.\n\nclass of losses.\n"""\n\nclass _Private:\n    class Inner: ...\n\nclass Hinge(DPO): ...\n'
    )
    (tmp_path / "_shared.py").write_text("class Shared: ...\n")
    (tmp_path / "absolute.py").write_text("def loss(): ...\n\nclass AbsoluteDPO: ...\n")
    assert lit_align.methods.public_classes(tmp_path) == {"AbsoluteDPO": "absolute", "Hinge": "hinge"}


def test_an_unknown_method_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'PPO'; it has AdversarialReward, AlphaDPO, "):
        _ = lit_align.methods.PPO
    assert set(lit_align.methods.__all__) <= set(dir(lit_align.methods))


@pytest.mark.parametrize("slug", METHODS)
def test_a_method_has_a_configuration_that_names_it(slug):
    (cls,) = _classes(slug)
    config = yaml.safe_load((ROOT / "configs" / f"{slug}.yaml").read_text(encoding="utf-8"))
    assert config["model"]["class_path"].rpartition(".")[2] == cls.__name__
    assert config["trainer"]["default_root_dir"] == f"runs/{slug}"


def test_configurations_are_those_of_methods_of_loops_and_their_variants():
    variants = {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {*METHODS}
    for variant in variants:
        config = yaml.safe_load((ROOT / "configs" / f"{variant}.yaml").read_text(encoding="utf-8"))
        loop = loop_of(config)
        slug = lit_align.methods.MODULES[config["model"]["class_path"]] if loop is None else loop
        assert variant.startswith(f"{slug}_") or variant == loop
        assert config["trainer"]["default_root_dir"] == f"runs/{variant}"


@pytest.mark.parametrize("slug", METHODS)
def test_a_method_has_a_row_in_the_cases(slug):
    (cls,) = _classes(slug)
    assert any((case.slug, case.name) == (slug, cls.__name__) for case in CASES)


@pytest.mark.parametrize("slug", METHODS)
def test_a_method_cites_its_paper_and_equation(slug):
    """Or says that the number could not be looked up: a wrong one is worse than none."""
    docstring = " ".join(importlib.import_module(f"lit_align.methods.{slug}").__doc__.split())
    assert re.search(r"https?://", docstring)
    assert re.search(r"\bEqs?\. ?\w*\d|\bAlgorithm \d|\bSec\. ?\d|equation number not checked", docstring)


@pytest.mark.parametrize("slug", METHODS)
def test_a_methods_arguments_are_documented(slug):
    """They are its `--help`."""
    (cls,) = _classes(slug)
    own = [n for n, p in inspect.signature(cls.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD]
    for name in own:
        assert name == "self" or re.search(rf"^ +{name}: \S", cls.__doc__ or "", re.MULTILINE), name


@pytest.mark.parametrize("slug", METHODS)
def test_building_a_method_loads_no_weights(slug):
    """Every process builds the objects of the command line before process groups exist."""
    (cls,) = _classes(slug)
    assert list(cls(policy="/no/such/folder").parameters()) == []


@pytest.mark.parametrize("slug", METHODS)
def test_methods_leave_the_hyperparameters_to_their_base(slug):
    assert "save_hyperparameters" not in (ROOT / "lit_align" / "methods" / f"{slug}.py").read_text(encoding="utf-8")


def _lines(slug: str) -> list[str]:
    """Lines of code without blank lines, comments, imports and docstrings, stripped."""
    path = ROOT / "lit_align" / "methods" / f"{slug}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return [line.strip() for line in ast.unparse(tree).splitlines() if line.strip() not in ("", "''", '""""""')]


SHORTEST_BLOCK = 5
"""Lines in a row that are a copy: what two methods share belongs below them."""


def _blocks(lines: list[str]) -> set[tuple[str, ...]]:
    return {tuple(lines[start : start + SHORTEST_BLOCK]) for start in range(len(lines) - SHORTEST_BLOCK + 1)}


def test_methods_share_no_block_of_code():
    files = sorted((ROOT / "lit_align" / "methods").glob("*.py"))
    homes: dict[tuple[str, ...], list[str]] = {}
    for path in files:
        for block in _blocks(_lines(path.stem)):
            homes.setdefault(block, []).append(path.stem)
    assert {block: slugs for block, slugs in homes.items() if len(slugs) > 1} == {}
    # The test can tell: some method has a block that only it has.
    assert len(homes) > len(files)


# -------------------------------------------------------------------- callbacks


def _callbacks() -> list[type[Callback]]:
    package = importlib.import_module("lit_align.callbacks")
    return [getattr(package, name) for name in package.__all__]


def test_callbacks_lie_in_one_file_each_and_are_exported():
    exported = {cls.__module__.rpartition(".")[2]: cls for cls in _callbacks()}
    assert sorted(exported) == sorted(path.stem for path in (ROOT / "callbacks").glob("[!_]*.py"))


# -------------------------------------------------------------------- imports

# From the top down: a module may import from its own layer, where that is allowed, and from lower ones.
LAYERS = [
    ("lit_align.__main__", "lit_align.cli", "lit_align.trainer", "lit_align.parse_errors", "lit_align.tools"),
    ("lit_align.methods", "lit_align.callbacks"),
    ("lit_align.loops",),
    ("lit_align.data", "lit_align.rollouts", "lit_align.judges", "lit_align.evaluation"),
    ("lit_align.core.module", "lit_align.core.kinds"),
    ("lit_align.references",),
    ("lit_align.core",),
    ("lit_align.functional",),
]
STRANGERS = {"lit_align.methods": "lit_align.callbacks", "lit_align.callbacks": "lit_align.methods"}


def _layer(name: str) -> tuple[int, str]:
    """Which layer a module is in, and the prefix that says so; the longest prefix counts."""
    known = [(len(p), depth, p) for depth, layer in enumerate(LAYERS) for p in layer if f"{name}.".startswith(f"{p}.")]
    assert known, f"{name} belongs to no layer"
    _, depth, prefix = max(known)
    return depth, prefix


def _imports(path: Path) -> list[tuple[str, ast.stmt]]:
    """Modules that a file imports, wherever in the file, except for the eyes of a type checker only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", node) for alias in node.names]
    return found


LAYERED = [path for path in SOURCES if _name(path) not in ("lit_align", "lit_align.configs")]


@pytest.mark.parametrize("path", LAYERED, ids=_id)
def test_imports_point_down(path):
    depth, prefix = _layer(_name(path))
    for target, _ in _imports(path):
        if not target.startswith("lit_align.") or target.startswith(("lit_align.__version__", "lit_align.configs")):
            continue
        below, other = _layer(target)
        assert below >= depth, f"{_name(path)} imports {target}, which is above it"
        assert STRANGERS.get(prefix) != other, f"{_name(path)} imports {target}"


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p).startswith("lit_align.functional")], ids=_id)
def test_functional_imports_torch_only(path):
    allowed = {"__future__", "abc", "collections", "functools", "itertools", "math", "typing", "torch", "lit_align"}
    assert {target.split(".")[0] for target, _ in _imports(path)} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_classes_have_one_identity(path):
    """`import callbacks` is a second copy of every class in it; `pytorch_lightning` of every class of Lightning."""
    roots = {target.split(".")[0] for target, _ in _imports(path)}
    assert not roots & {"callbacks", "configs", "pytorch_lightning", "lightning_fabric"}


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_only_the_command_imports_lightnings_cli(path):
    aliases = {"lightning.pytorch.cli.OptimizerCallable", "lightning.pytorch.cli.LRSchedulerCallable"}
    used = {target for target, _ in _imports(path) if target.startswith("lightning.pytorch.cli")}
    assert _layer(_name(path))[0] == 0 or used <= aliases if path in LAYERED else not used


def test_the_layers_would_catch_a_violation():
    assert _layer("lit_align.core.module") < _layer("lit_align.core.forward")
    assert _layer("lit_align.cli") < _layer("lit_align.callbacks.checkpoint") < _layer("lit_align.data.module")


# -------------------------------------------------------------------- size and words


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_files_are_short(path):
    longest = 130 if path.parent.name == "methods" else 500
    assert len(path.read_text(encoding="utf-8").splitlines()) <= longest


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_nothing_is_left_to_do(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_modules_say_their_purpose(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
