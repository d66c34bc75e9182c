"""`lit-align compare`: methods on one's own data, at equal budget and seeds, in one table and on one page."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_align.core.errors import ConfigError
from lit_align.tools.command import explained

if TYPE_CHECKING:
    from lit_align.evaluation.held_out import Asking
    from lit_align.tools.compare_plan import Plan
    from lit_align.tools.compare_runs import Run
    from lit_align.tools.compare_settings import Wanted

_HELP = """Train several methods on the same data, with the same number of optimiser steps and the same seeds, measure
every policy on the same held-out pairs and prompts, and write comparison.json, comparison.md and comparison.html.
Killed at any time, the same command goes on where it was. Further options are those of `lit-align fit`, for every
method: --model.policy, --data.train, --trainer.max_steps ..."""
_OURS = {"methods", "config", "seeds", "out", "set", "prompts", "max_new_tokens", "temperature"}
_REFUSED = {
    "model": "--methods names the methods",
    "model.class_path": "--methods names the methods",
    "seed_everything": "--seeds names the seeds",
    "data.seed": "--seeds names the seeds",
    "ckpt_path": "the same command goes on by itself",
    "trainer.default_root_dir": "--out names the folder",
}
"""Options of `lit-align fit` that are this tool's business."""


def main(argv: list[str]) -> None:
    """Run `lit-align compare`.

    Raises:
        ConfigError: an option, a method or the data will not do; or some of the runs have failed.
    """
    arguments, flags = _parse(argv)
    seeds = read_seeds(arguments.seeds)
    # Here, since these import what `--help` does without.
    from transformers.utils.logging import disable_progress_bar

    from lit_align.cli import silence_noise
    from lit_align.evaluation.held_out import Asking
    from lit_align.tools.compare_settings import Wanted, method_slugs

    silence_noise()
    # Those of models that are read to be measured would stand between our lines.
    disable_progress_bar()
    methods = method_slugs([name.strip() for name in arguments.methods.split(",") if name.strip()])
    wanted = Wanted(
        methods=methods,
        configs=arguments.config,
        seeds=seeds,
        out=arguments.out,
        flags=flags,
        own=read_own(arguments.set, methods),
        asking=Asking(arguments.prompts, arguments.max_new_tokens, arguments.temperature),
    )
    compare(wanted, "lit-align compare " + shlex.join(argv))


def compare(wanted: Wanted, command: str) -> None:
    """Train, measure and report.

    Args:
        wanted: what the user asks for.
        command: as the user has typed it.

    Raises:
        ConfigError: see `main`.
    """
    from lit_align.tools.compare_plan import make_plan
    from lit_align.tools.compare_runs import Run, check_folder, measure_initial
    from lit_align.tools.one_at_a_time import alone

    with alone(wanted.out) as lock:
        plan = make_plan(wanted)
        # Seed by seed, so that what was done when somebody stops it can be compared.
        runs = [
            Run(method, seed, wanted.out / method.slug / f"seed={seed}")
            for seed in wanted.seeds
            for method in plan.methods
        ]
        for run in runs:
            check_folder(run, plan.inputs)
        size = f"{_count(plan.methods, 'method')}, {_count(wanted.seeds, 'seed')}, {plan.steps} optimiser steps each"
        print(f"{size}, in {wanted.out}", flush=True)
        results, failures = _run_all(runs, plan, wanted.asking, lock)
        if results:
            initial = measure_initial(results[0][0], plan, wanted.asking, wanted.out)
            _report(wanted, plan, initial, results, failures, command)
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(runs)} runs failed",
            got="; ".join(failures),
            fix=f"{wanted.out}/METHOD/seed=N/fit.log tells why; the same command tries them again, and no others",
        )


def _run_all(
    runs: Sequence[Run], plan: Plan, asking: Asking, lock: int
) -> tuple[list[tuple[Run, dict[str, Any]]], dict[str, str]]:
    """Train and measure what is not done yet.

    Returns:
        Runs with what is known of them, and by name what stopped the others.
    """
    from lit_align.tools.compare_runs import measure, result_of, train

    results: list[tuple[Run, dict[str, Any]]] = []
    failures: dict[str, str] = {}
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run.name}: ", end="", flush=True)
        result = result_of(run, asking)
        try:
            if result is None:
                train(run, plan.inputs, lock)
                result = measure(run, plan, asking)
                print(f"{result['steps']} steps in {result['seconds']:.1f} s", flush=True)
            else:
                print("finished before", flush=True)
            results.append((run, result))
        except ConfigError as error:
            print(f"failed: {error.got}", flush=True)
            failures[run.name] = error.got
    return results, failures


def _report(
    wanted: Wanted,
    plan: Plan,
    initial: dict[str, Any],
    results: Sequence[tuple[Run, dict[str, Any]]],
    failures: dict[str, str],
    command: str,
) -> None:
    """Write the three files, and print the table."""
    from lit_align.evaluation.compare_data import write_whole
    from lit_align.evaluation.compare_page import build_page
    from lit_align.evaluation.compare_summary import summarise
    from lit_align.evaluation.compare_table import as_markdown, as_text, below
    from lit_align.tools.compare_plan import describe, describe_method

    of_method = {
        method.slug: [result for run, result in results if run.method.slug == method.slug] for method in plan.methods
    }
    about = {"command": command, "seeds": wanted.seeds, "asking": wanted.asking._asdict(), **describe(plan)}
    methods = [describe_method(method) for method in plan.methods]
    comparison = summarise(about, methods, of_method, initial, failures)
    names = ("comparison.json", "comparison.md", "comparison.html")
    json_file, markdown, page = (wanted.out / name for name in names)
    write_whole(json_file, json.dumps(comparison, indent=1))
    write_whole(markdown, as_markdown(comparison))
    build_page(comparison, wanted.out, page)
    width = shutil.get_terminal_size((120, 40)).columns
    print(f"\n{as_text(comparison, width)}")
    print("\n".join(below(comparison)))
    print(f"\n{page}\n{markdown}\n{json_file}")


# -------------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lit-align compare", description=_HELP, allow_abbrev=False, exit_on_error=False)
    add = parser.add_argument
    add("--methods", metavar="A,B,C", help="names of configurations: dpo,simpo,ipo; `lit-align methods` lists them")
    add("--config", type=Path, action="append", metavar="FILE", help="policy, data and trainer settings, also several; "
        "of a method's own arguments in it nothing is taken: these come from its own configuration")  # fmt: skip
    add("--seeds", default="0", help="of weights that are new and of the order of the data: 0,1,2 (default: 0)")
    add("--out", type=Path, default=Path("runs/compare"), metavar="FOLDER", help="default: runs/compare")
    add("--set", action="append", default=[], metavar="METHOD.NAME=VALUE", help="an argument of one method")
    add("--prompts", type=int, default=64, help="how many held-out prompts are replied to (default: 64)")
    add("--max_new_tokens", type=int, default=128, help="longest reply, tokens (default: 128)")
    add("--temperature", type=float, default=0.0, help="of the replies; 0 (default): the likeliest token each time")
    return parser


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options of this tool, and those for `lit-align fit`."""
    try:
        arguments, flags = _parser().parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise explained("compare", str(error), _OURS) from error
    for flag in flags:
        name = flag.partition("=")[0].removeprefix("--").removesuffix("+")
        if not flag.startswith("--"):
            continue
        if name in _REFUSED:
            raise ConfigError("this is no option of a comparison", got=flag, fix=_REFUSED[name])
        if name.partition(".")[0] not in ("model", "data", "trainer"):
            raise explained("compare", f"unrecognized arguments: {flag}", _OURS)
    for name, example in (("methods", "--methods dpo,simpo,ipo"), ("config", "--config configs/dpo.yaml")):
        if not getattr(arguments, name):
            raise ConfigError(f"--{name} must be given", fix=f"for example {example}")
    for name, least in (("prompts", 0), ("max_new_tokens", 1), ("temperature", 0)):
        if not getattr(arguments, name) >= least:
            fix = f"give {least} or more"
            raise ConfigError(f"--{name} is out of range", got=str(getattr(arguments, name)), fix=fix)
    return arguments, flags


def read_seeds(text: str) -> list[int]:
    """Seeds from a list with commas.

    Raises:
        ConfigError: it is none, or a seed stands twice.
    """
    if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text) or max(map(int, text.split(","))) >= 2**32:
        raise ConfigError("seeds are whole numbers with commas between them", got=text, fix="--seeds 0,1,2")
    seeds = [int(seed) for seed in text.split(",")]
    if len({*seeds}) < len(seeds):
        raise ConfigError("a seed is named twice", got=text, fix="--seeds 0,1,2")
    return seeds


def read_own(texts: Sequence[str], methods: Sequence[str]) -> dict[str, list[str]]:
    """Options of single methods from `simpo.gamma=1.0`.

    Raises:
        ConfigError: it is not of this form, names no method of this comparison, or what all have in common.
    """
    own: dict[str, list[str]] = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)\.([\w.]+)=(.*)", text)
        if match is None:
            raise ConfigError("--set takes METHOD.NAME=VALUE", got=text, fix="for example --set simpo.gamma=1.0")
        slug, name, value = match.groups()
        if slug not in methods:
            close = difflib.get_close_matches(slug, methods, n=1)
            hint = f"did you mean {close[0]}.{name}?" if close else f"compared are {', '.join(methods)}"
            raise ConfigError("--set names a method that is not compared", got=text, fix=hint)
        if name == "policy":
            fix = "--model.policy names the policy of all methods"
            raise ConfigError("methods are compared on one policy", got=text, fix=fix)
        own.setdefault(slug, []).append(f"--model.{name}={value}")
    return own


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
