"""The report of runs and evaluations: one HTML page that opens without a network, its numbers and figures beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lit_align import __version__
from lit_align.core.errors import ConfigError
from lit_align.evaluation.drawings import Drawing, Palette
from lit_align.evaluation.environment import now
from lit_align.evaluation.figures import render_figure
from lit_align.evaluation.plain import write_whole
from lit_align.evaluation.report_blocks import (
    Alarms,
    Block,
    Cards,
    Figures,
    Samples,
    Section,
    Table,
    Text,
    plain,
    shown,
)
from lit_align.evaluation.report_results import distributions, evaluations, headline, labels_of, samples
from lit_align.evaluation.report_runs import alarms, comparison, data, what_was_run
from lit_align.evaluation.run_files import RunFiles, is_run, read_runs
from lit_align.evaluation.training_figures import speed_curves, training_curves

_OURS = frozenset({"evaluation", "data_report", "run", "hparams", "quickstart", "footprint", "initial", "result"})
"""Names of JSON files that a report beside them must not replace."""
_OPEN, _FOLDED = 6, 60
"""Samples that are shown at once, and those that are shown on demand; the rest is in the file."""
_LETTERS, _MOST_LETTERS = 700, 8000
"""Of a text, what is shown at once and what on demand."""


class Page(NamedTuple):
    """A report, before it is written."""

    title: str
    about: str
    facts: list[tuple[str, str]]
    cards: Cards | None
    sections: list[Section]
    notes: list[str]
    palette: Palette


def build_report(runs: Path | Sequence[Path], out: Path, title: str = "") -> Path:
    """Write the report of one or several runs and evaluations.

    Beside the page, named after it: `<name>.json` with every number of the page, `<name>_figures/` with each figure as
    SVG and PNG, `<name>_samples.jsonl` with the texts in full.

    Args:
        runs: run folders, and folders with an evaluation.json; the headline is that of the first. Any file of a folder
            may be missing: the page says so.
        out: the HTML file.
        title: heading of the page; default: the method and the folder.

    Returns:
        `out`.

    Raises:
        ConfigError: a folder does not exist, or holds nothing to report; or `out` would replace a file of a run.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    for folder in folders:
        if not is_run(folder):
            raise ConfigError(
                "there is no run to report",
                got=f"{folder}: {'nothing that a run leaves' if folder.is_dir() else 'no such folder'}",
                fix="name run folders, which are the trainer's default_root_dir, or folders with an evaluation.json",
            )
    if not folders or out.stem in _OURS:
        raise ConfigError(
            "the report's numbers would replace a file of the run" if folders else "there is no run to report",
            got=str(out),
            fix="choose another name, such as report.html" if folders else "name at least one run folder",
        )
    page = _page(read_runs(folders), title)
    figures = {spec["id"]: render_figure(spec, page.palette) for spec in _specs(page.sections)}
    names = {"json": f"{out.stem}.json", "samples": f"{out.stem}_samples.jsonl", "figures": f"{out.stem}_figures/"}
    html = render(
        "report.html",
        page=page,
        svg={name: drawn.svg for name, drawn in figures.items()},
        has_samples=any(isinstance(block, Samples) for block in _blocks(page.sections)),
        files=names,
        limits={"open": _OPEN, "folded": _FOLDED, "letters": _LETTERS, "most": _MOST_LETTERS},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_files(page, figures, out)
    write_whole(out, html)
    return out


def render(template: str, **values: Any) -> str:
    """A page of one file.

    Args:
        template: name of a file beside this one; besides the values it has `css`, the style of all pages.
        **values: what it shows.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"svg": Markup, "shown": shown}
    environment.tests["of_kind"] = lambda block, kind: type(block).__name__ == kind
    folder = files("lit_align.evaluation")
    text, css = (folder.joinpath(name).read_text(encoding="utf-8") for name in (template, "page.css"))
    return environment.from_string(text).render(css=Markup(css), **values)


def _page(runs: Sequence[RunFiles], title: str) -> Page:
    first = runs[0]
    named = first.evaluation.get("title") if not first.metrics else ""
    default = str(named or f"{first.method} {first.folder.resolve().name}".strip())
    texts = {section.id: section for section in samples(runs)}
    sections = [
        *alarms(runs),
        *comparison(runs),
        *evaluations(runs),
        *filter(None, [texts.get("samples")]),
        *distributions(runs),
        *_curves(runs),
        *filter(None, [texts.get("during")]),
        *data(runs),
        *what_was_run(runs),
    ]
    labels = labels_of(first) if first.evaluation.get("labels") else ("", "")
    return Page(
        title=title or (default if len(runs) == 1 else f"{len(runs)} runs compared"),
        about=str(first.evaluation.get("about", "")),
        facts=_facts(runs),
        # Of several runs without a headline of their own, the table of the comparison says it all.
        cards=headline(first) if len(runs) == 1 or first.evaluation.get("headline") else None,
        sections=_with_own_ids(sections),
        notes=[note for run in runs for note in run.notes],
        palette=Palette(*labels, runs=[run.label for run in runs] if len(runs) > 1 else []),
    )


def _facts(runs: Sequence[RunFiles]) -> list[tuple[str, str]]:
    first = runs[0]
    evaluation = first.evaluation
    seconds = evaluation.get("seconds")
    evaluated = {"lit-align ": evaluation.get("version"), "seed ": evaluation.get("seed")}
    facts = {
        "method": first.method if len(runs) == 1 else "",
        "runs": ", ".join(run.label for run in runs) if len(runs) > 1 else "",
        "started from": first.policy,
        "folder": ", ".join(str(run.folder) for run in runs),
        "took": f"{seconds} s" if seconds else "",
        "evaluated with": ", ".join(f"{name}{value}" for name, value in evaluated.items() if value is not None),
        "page written": f"{now().replace('T', ' ').replace('Z', ' UTC')} with lit-align {__version__}",
    }
    return [(name, value) for name, value in facts.items() if value]


def _curves(runs: Sequence[RunFiles]) -> list[Section]:
    sections = []
    metrics = {run.label: run.metrics for run in runs if run.metrics}
    if curves := training_curves(metrics):
        several = " Colours are those of the runs." if len(metrics) > 1 else ""
        lead = f"Pale lines are the logged values, strong lines their moving average, dots held-out data.{several}"
        sections.append(Section("training", "Training", lead, [Figures("", "", curves)]))
    if speed := speed_curves({run.label: run.timing for run in runs if run.timing}):
        lead = "By the clock on the wall, without validation; of the machine that the run was on."
        sections.append(Section("speed", "Speed and memory", lead, [Figures("", "", speed)]))
    return sections


def _with_own_ids(sections: Iterable[Section]) -> list[Section]:
    """The same, with ids that no other section, table or figure has: they are anchors and names of files."""
    taken: set[str] = set()

    def own(name: str) -> str:
        number, found = 2, name
        while found in taken:
            found, number = f"{name}_{number}", number + 1
        taken.add(found)
        return found

    def renamed(block: Block) -> Block:
        if isinstance(block, (Table, Samples)):
            return block._replace(id=own(block.id))
        if isinstance(block, Figures):
            return block._replace(specs=[spec | {"id": own(spec["id"])} for spec in block.specs])
        return block

    return [
        section._replace(id=own(section.id), blocks=[renamed(block) for block in section.blocks])
        for section in sections
    ]


# -------------------------------------------------------------------- files beside the page


def _blocks(sections: Iterable[Section]) -> list[Block]:
    return [block for section in sections for block in section.blocks]


def _specs(sections: Iterable[Section]) -> list[dict[str, Any]]:
    return [spec for block in _blocks(sections) if isinstance(block, Figures) for spec in block.specs]


def _write_files(page: Page, figures: dict[str, Drawing], out: Path) -> None:
    """Write the figures, the texts in full, and every number of the page."""
    folder, numbers = out.with_name(f"{out.stem}_figures"), out.with_name(f"{out.stem}.json")
    _remove_earlier(numbers, folder)
    written: dict[str, list[str]] = {}
    for name, drawn in figures.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.svg").write_text(drawn.file, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(drawn.png)
        written[name] = [f"{folder.name}/{name}.{ending}" for ending in ("svg", "png")]
    texts = [block for block in _blocks(page.sections) if isinstance(block, Samples)]
    file = out.with_name(f"{out.stem}_samples.jsonl")
    file.unlink(missing_ok=True)
    if texts:
        rows = [{"samples": of.id, "columns": of.columns, **row._asdict()} for of in texts for row in of.rows]
        write_whole(file, "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows))
    write_whole(numbers, json.dumps(plain(_numbers(page, written)), ensure_ascii=False, indent=1) + "\n")


def _remove_earlier(numbers: Path, folder: Path) -> None:
    """Remove the figures of the report that this one replaces; no other file of the folder."""
    try:
        known = json.loads(numbers.read_text(encoding="utf-8"))["figures"]
        names = [Path(name).name for figure in known for name in figure["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _numbers(page: Page, written: dict[str, list[str]]) -> dict[str, Any]:
    """Everything that the page shows, texts of samples aside."""
    blocks = _blocks(page.sections)
    cards = page.cards.lines if page.cards else []
    return {
        "title": page.title,
        "about": page.about,
        "facts": dict(page.facts),
        "headline": [card._asdict() for card in cards],
        "alarms": [note._asdict() for block in blocks if isinstance(block, Alarms) for note in block.notes],
        "tables": [
            {name: getattr(block, name) for name in ("id", "title", "note", "columns", "rows")}
            for block in blocks
            if isinstance(block, Table)
        ],
        "figures": [spec | {"files": written[spec["id"]]} for spec in _specs(page.sections)],
        "samples": [
            {"id": block.id, "title": block.title, "columns": block.columns, "number": len(block.rows)}
            for block in blocks
            if isinstance(block, Samples)
        ],
        "texts": {block.title: block.text for block in blocks if isinstance(block, Text)},
        "notes": page.notes,
    }
