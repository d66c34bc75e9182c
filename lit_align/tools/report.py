"""`lit-align report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from lit_align.evaluation.report import build_report


def report(run: str, out: str | None = None, title: str = "") -> None:
    """Write a page with the headline numbers, curves, distributions, completions, data and configuration of a run.

    Args:
        run: the run folder; of its files every one may be missing.
        out: HTML file to write; default: report.html in the run folder.
        title: heading of the page; default: the method and the folder.
    """
    print(build_report(Path(run), Path(out) if out else Path(run) / "report.html", title))


def main(argv: list[str]) -> None:
    """Run `lit-align report`."""
    auto_cli(report, args=argv, prog="lit-align report", as_positional=False)
