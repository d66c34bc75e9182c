"""`lit-align merge`: models that were trained from one base become one, by what each has changed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_align.cli import silence_noise
from lit_align.core.errors import ConfigError
from lit_align.core.policy import build_policy, load_base
from lit_align.core.policy_spec import DtypeName, PolicySpec
from lit_align.core.pretrained import adapter_base, load_tokenizer
from lit_align.core.ranges import finite
from lit_align.core.saving import SavedPolicy, require_unused, save_policy
from lit_align.functional.merging import dare_ties, linear, ties
from lit_align.tools.command import explained
from lit_align.tools.export import export

METHODS = ("linear", "ties", "dare_ties")


class Recipe(NamedTuple):
    """How changes become one."""

    weights: Sequence[float]
    method: str = "linear"
    density: float = 0.5
    scale: float = 1.0
    seed: int = 0


class Change(NamedTuple):
    """How far a model is from its base."""

    norm: float
    """Root of the summed squares of all changes."""
    unchanged: float
    """Share of the weights that are exactly the base's."""


class Merged(NamedTuple):
    """What `merge` has written."""

    saved: SavedPolicy
    models: list[Change]
    """Of each model that went in."""
    result: Change
    """Of the written model, before its weights were rounded."""


def merge(
    base: str,
    models: Sequence[str],
    out: str | Path,
    recipe: Recipe,
    dtype: DtypeName = "auto",
    tokenizer: str | None = None,
) -> Merged:
    """Add to a base model what others, trained from it, have changed; write the result in Hugging Face format.

    The models are read one by one, and their weights laid on disk beside `out` until the end; then each weight is
    merged by itself, so that no more than two models are in memory at once.

    Args:
        base: folder or hub name of the model that all were trained from.
        models: folders or hub names of whole models or adapters, or folders of runs, whose newest checkpoint counts.
        out: folder to write; must not exist, or be empty.
        recipe: how.
        dtype: of the written weights; auto: the base's.
        tokenizer: folder or hub name of a tokenizer; None: the base's.

    Raises:
        ConfigError: a setting is out of range, a model cannot be read, or is not of the base's form.
    """
    _check(models, recipe)
    out = Path(out)
    require_unused(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".merge-", dir=out.absolute().parent) as folder, ExitStack() as stack:
        files = [_lay_down(name, Path(folder), number) for number, name in enumerate(models)]
        merged = build_policy(PolicySpec(base, dtype=dtype))
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        for name, file in zip(models, opened, strict=True):
            _refuse_another_form(name, file, merged)
        *changes, result = _merge_into(merged, opened, recipe)
        saved = save_policy(merged, load_tokenizer(tokenizer or base), out)
    return Merged(saved, changes, result)


def _check(models: Sequence[str], recipe: Recipe) -> None:
    what, fix = "the models cannot be merged this way", ""
    if len(recipe.weights) != len(models):
        fix = "give one weight for each model"
    elif recipe.method not in METHODS:
        fix = f"one of {', '.join(METHODS)}"
    elif not 0 < recipe.density <= 1:
        fix = "a density is a share above 0, up to 1"
    elif recipe.method != "linear" and min(recipe.weights) < 0:
        fix = "weights below 0 are for method linear: they have no part in an election of signs"
    if fix:
        raise ConfigError(what, got=f"{len(models)} models, {recipe}", fix=fix)
    for weight in (*recipe.weights, recipe.scale):
        finite("weights and scale", weight)


def _lay_down(name: str, folder: Path, number: int) -> str:
    """Write the weights of a model to one file, by the names that transformers gives them in memory; its path."""
    path = Path(name).expanduser()
    if (path / "checkpoints").is_dir() and not (path / "config.json").is_file():
        name = str(folder / f"run{number}")
        with redirect_stdout(StringIO()):
            # Adapters by themselves: merged into a base of 4 bits, they would bring its rounding errors along.
            export(run=str(path), out=name, merge=False)
    # Rounded to a base's 16 bits, a small change would be lost.
    dtype: DtypeName = "auto" if adapter_base(name) is None else "float32"
    model = load_base(PolicySpec(name, dtype=dtype), torch.device("cpu"))
    file = folder / f"{number}.safetensors"
    # Tied weights have one name here.
    save_file({key: value.detach().contiguous() for key, value in model.named_parameters()}, file)
    return str(file)


def _refuse_another_form(name: str, file: Any, base: nn.Module) -> None:
    """Refuse a model whose weights have other names or shapes than the base's.

    Raises:
        ConfigError: they have.
    """
    own = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping
    wanted = {key: tuple(value.shape) for key, value in base.named_parameters()}
    other = sorted(key for key in own.keys() | wanted.keys() if own.get(key) != wanted.get(key))
    if other:
        first = other[0]
        raise ConfigError(
            "a model is not of the base's form, so it was not trained from it",
            got=f"{name}: {first} is {own.get(first, 'absent')}, the base's {wanted.get(first, 'absent')}"
            + (f"; {len(other)} weights in all" if len(other) > 1 else ""),
            fix="merge models of one architecture and vocabulary, trained from the base that --base names",
        )


@torch.no_grad()
def _merge_into(base: nn.Module, files: Sequence[Any], recipe: Recipe) -> list[Change]:
    """Change the weights of `base`; the changes of the models, and last of the result."""
    generator = torch.Generator().manual_seed(recipe.seed)
    methods: dict[str, Callable[..., Tensor]] = {
        "linear": linear,
        "ties": partial(ties, density=recipe.density),
        "dare_ties": partial(dare_ties, density=recipe.density, generator=generator),
    }
    combine = methods[recipe.method]
    squares, zeros, total = [0.0] * (len(files) + 1), [0] * (len(files) + 1), 0
    for name, parameter in base.named_parameters():
        exact = parameter.to(torch.float64 if parameter.dtype is torch.float64 else torch.float32)
        deltas = [cast(Tensor, file.get_tensor(name)).to(exact) - exact for file in files]
        change = recipe.scale * combine(deltas, recipe.weights)
        for number, delta in enumerate([*deltas, change]):
            squares[number] += delta.square().sum(dtype=torch.float64).item()
            zeros[number] += int((delta == 0).sum())
        total += parameter.numel()
        parameter.copy_(exact + change)
    return [Change(square**0.5, zero / total) for square, zero in zip(squares, zeros, strict=True)]


def main(argv: list[str]) -> None:
    """Run `lit-align merge`.

    Raises:
        ConfigError: the arguments are not those of the tool, or the models cannot be merged.
    """
    arguments = _parse(argv)
    silence_noise()
    weights = arguments.weights or [1.0] * len(arguments.models)
    recipe = Recipe(weights, arguments.method, arguments.density, arguments.scale, arguments.seed)
    merged = merge(arguments.base, arguments.models, arguments.out, recipe, arguments.dtype, arguments.tokenizer)
    for name, change in zip([*arguments.models, "merged"], [*merged.models, merged.result], strict=True):
        print(f"{name}: {change.norm:.4g} from the base, {change.unchanged:.1%} of the weights as they were")
    print(f"{merged.saved.folder}: read back, largest change of a log-probability {merged.saved.largest_change:.2g}")


def _parse(argv: list[str]) -> argparse.Namespace:
    about = "Merge models that were trained from one base, such as PAFT's: one fine-tuned, one aligned."
    parser = argparse.ArgumentParser("lit-align merge", description=about, allow_abbrev=False, exit_on_error=False)
    add = parser.add_argument
    add("--base", help="the model that all were trained from: folder or hub name")
    add("--models", nargs="+", help="models, adapters or runs: folders or hub names")
    add("--out", help="folder to write")
    add("--weights", nargs="+", type=float, help="one for each model; default: 1 each")
    add("--method", default="linear", choices=METHODS, help="default: %(default)s, the weighted sum of the changes")
    add("--density", type=float, default=0.5, help="share of each change that ties and dare_ties keep; %(default)s")
    add("--scale", type=float, default=1.0, help="of the merged change; default: %(default)s")
    add("--seed", type=int, default=0, help="of what dare_ties drops; default: %(default)s")
    add("--dtype", default="auto", choices=get_args(DtypeName), help="of the written weights; default: the base's")
    add("--tokenizer", help="folder or hub name; default: the base's")
    names = {action.dest for action in parser._actions}
    try:
        arguments, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise explained("merge", str(error), names) from error
    if unknown:
        raise explained("merge", f"unrecognized arguments: {' '.join(unknown)}", names)
    for name in ("base", "models", "out"):
        if not getattr(arguments, name):
            raise ConfigError(f"--{name} must be given", fix="lit-align merge --base MODEL --models A B --out FOLDER")
    return arguments
