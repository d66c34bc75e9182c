"""`lit-align report`: one HTML page about runs and evaluations, with its numbers and figures beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lit_align.evaluation.report import build_report
from lit_align.tools.command import run_command


def report(run: list[str], out: str | None = None, title: str = "") -> None:
    """Write a page with the headline numbers, evaluations, samples, curves, alarms, data and settings of runs.

    Several runs are compared: their curves share figures, and a table says in what they differ.

    Args:
        run: run folders and folders with an evaluation.json, also without `--run`; of their files every one may be
            missing.
        out: HTML file to write, beside which go its numbers and figures; default: report.html in the run folder, of
            several runs in the folder that holds them all.
        title: heading of the page; default: the method and the folder.
    """
    folders = [Path(folder) for folder in run]
    home = Path(os.path.commonpath([folder.absolute() for folder in folders])) if len(folders) > 1 else folders[0]
    print(build_report(folders, Path(out) if out else home / "report.html", title))


def main(argv: list[str]) -> None:
    """Run `lit-align report`."""
    run_command("report", report, with_runs(argv), as_positional=False)


def with_runs(argv: list[str]) -> list[str]:
    """The same arguments with all run folders, those by themselves and those behind `--run`, in one list."""
    runs: list[str] = []
    others: list[str] = []
    option = ""
    for argument in argv:
        if option and option != "--run":
            others.append(argument)
            option = ""
        elif argument.startswith("-") and option != "--run":
            name, equals, value = argument.partition("=")
            if name == "--run" and equals:
                runs.append(value)
            elif name != "--run":
                others.append(argument)
            option = "" if equals or argument in ("-h", "--help") else name
        else:
            runs.append(argument)
            option = ""
    return [*(["--run", json.dumps(runs)] if runs else []), *others]
