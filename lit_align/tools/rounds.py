"""`lit-align rounds`: what a loop has made, round by round; to look at, to accept when edited, to have made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.loops.revision import accept as accept_round
from lit_align.loops.revision import changed_steps, start_of
from lit_align.loops.revision import redo as redo_round
from lit_align.loops.store import TRAIN, RoundFolder, round_folders
from lit_align.tools.command import run_command, with_run


def rounds(
    run: str,
    show: int | None = None,
    rows: int = 3,
    accept: int | None = None,
    redo: int | None = None,
    step: str | None = None,
) -> None:
    """List the rounds of a run, or do something about one of them.

    Args:
        run: the run folder, also without `--run`.
        show: print the first rows of every step of this round.
        rows: how many.
        accept: go on with the files of this round as you have edited them; what was made of them is made again.
        redo: have this round made again; its files are moved to `stale`.
        step: with `redo`, the first step that is made again; the steps before it stay.
    """
    folder = Path(run)
    if not round_folders(folder):
        raise ConfigError(
            "there are no rounds", got=run, fix="name the run folder of a loop, its trainer.default_root_dir"
        )
    if step is not None and redo is None:
        raise ConfigError("a step is made again with its round", got=f"--step {step}", fix="name the round with --redo")
    if accept is not None:
        _say_how_to_go_on(folder, accept, accept_round(folder, accept))
    elif redo is not None:
        _say_how_to_go_on(folder, redo, redo_round(folder, redo, step))
    elif show is not None:
        _show(RoundFolder.of(folder, show), rows)
    else:
        for found in round_folders(folder):
            _describe(found)


def main(argv: list[str]) -> None:
    """Run `lit-align rounds`."""
    run_command("rounds", rounds, with_run(argv), as_positional=False)


def _describe(folder: RoundFolder) -> None:
    manifest, changed = folder.manifest, changed_steps(folder)
    state = "ready to be learnt from" if TRAIN in folder.steps else "not finished"
    print(f"round {folder.number}: {manifest.get('loop', '?')}, after step {manifest.get('step', '?')}, {state}")
    for name, entry in folder.steps.items():
        note = " (changed since)" if name in changed else " (edited)" if entry.get("edited") else ""
        print(f"  {name:<14}{entry['rows']:>7} rows{entry.get('seconds', 0):>9.1f} s{note}")
        for reason, count in entry.get("left_out", {}).items():
            print(f"  {'':<14}{-count:>7} {reason}")
    stats = {name: value for name, value in manifest.get("stats", {}).items() if value is not None}
    shown = [
        f"{name} {stats[name]:.4g}"
        for name in ("mean_tokens", "score", "held_out_score", "distinct_2")
        if name in stats
    ]
    if shown:
        print(f"  {', '.join(shown)}")


def _show(folder: RoundFolder, number: int) -> None:
    if not folder.steps:
        raise ConfigError("there is no such round", got=str(folder.path), fix="list them with `lit-align rounds RUN`")
    for name in folder.steps:
        print(f"\n{name}: {folder.file(name)}")
        for row in folder.rows(name)[:number]:
            print(_indented(row))


def _indented(row: dict[str, Any]) -> str:
    return "\n".join(f"  {line}" for line in json.dumps(row, indent=1, ensure_ascii=False).splitlines()[1:-1]) + "\n"


def _say_how_to_go_on(run: Path, number: int, again: list[str]) -> None:
    start = start_of(run, number)
    print(
        f"to be made again in round {number}: {', '.join(again) or 'nothing'}; later rounds were moved to rounds/stale"
    )
    checkpoint = "" if start is None else f" --ckpt_path {start}"
    print(f"go on with: lit-align fit --config {run / 'config.yaml'}{checkpoint}")
