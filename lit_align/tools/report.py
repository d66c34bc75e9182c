"""`lit-align report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from lit_align.evaluation.report import build_report
from lit_align.tools.command import run_command, with_run


def report(run: str, out: str | None = None, title: str = "") -> None:
    """Write a page with the headline numbers, curves, distributions, completions, data and configuration of a run.

    Args:
        run: the run folder, also without `--run`; of its files every one may be missing.
        out: HTML file to write; default: report.html in the run folder.
        title: heading of the page; default: the method and the folder.
    """
    print(build_report(Path(run), Path(out) if out else Path(run) / "report.html", title))


def main(argv: list[str]) -> None:
    """Run `lit-align report`."""
    run_command("report", report, with_run(argv), as_positional=False)
