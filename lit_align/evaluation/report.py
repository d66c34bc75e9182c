"""The report of runs and evaluations: one HTML page that opens without a network, its numbers and figures beside it."""

from __future__ import annotations

import json
import re
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
from lit_align.evaluation.report_comparison import comparison
from lit_align.evaluation.report_headlines import headlines, labels_of
from lit_align.evaluation.report_results import distributions, evaluations, samples
from lit_align.evaluation.report_rounds import rounds
from lit_align.evaluation.report_runs import alarms, data, what_was_run
from lit_align.evaluation.report_tables import reading
from lit_align.evaluation.run_files import MISSING, RunFiles, is_run, read_runs
from lit_align.evaluation.training_figures import speed_curves, training_curves

_OURS = frozenset({"evaluation", "data_report", "run", "hparams", "quickstart", "footprint", "initial", "result"})
"""Names of JSON files that a report beside them must not replace."""
_OPEN, _FOLDED = 6, 60
"""Samples that are shown at once, and those that are shown on demand; the rest is in the file."""
_LETTERS, _MOST_LETTERS = 700, 8000
"""Of a text, what is shown at once and what on demand."""


class Strip(NamedTuple):
    """One line above everything else."""

    words: str
    place: str
    """Anchor of the section that says more."""


class Page(NamedTuple):
    """A report, before it is written."""

    title: str
    about: str
    facts: list[tuple[str, str]]
    strips: list[Strip]
    """What nobody should overlook."""
    cards: list[Cards]
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
    figures = {
        spec["id"]: render_figure(spec, page.palette, small=block.small)
        for block in _blocks(page.sections)
        if isinstance(block, Figures)
        for spec in block.specs
    }
    names = {"json": f"{out.stem}.json", "samples": f"{out.stem}_samples.jsonl", "figures": f"{out.stem}_figures/"}
    html = render(
        "report.html",
        page=page,
        svg={name: drawn.svg for name, drawn in figures.items()},
        colours=_colours(page),
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
    environment.filters |= {"svg": Markup, "shown": shown, "reading": reading, "readable": _readable}
    environment.tests["of_kind"] = lambda block, kind: type(block).__name__ == kind
    folder = files("lit_align.evaluation")
    text, css = (folder.joinpath(name).read_text(encoding="utf-8") for name in (template, "page.css"))
    return environment.from_string(text).render(css=Markup(css), **values)


def _page(runs: Sequence[RunFiles], title: str) -> Page:
    texts = {section.id: section for section in samples(runs)}
    sections = [
        *evaluations(runs),
        *rounds(runs),
        *filter(None, [texts.get("samples")]),
        *distributions(runs),
        *_curves(runs),
        *filter(None, [texts.get("during")]),
        *comparison(runs),
        *alarms(runs),
        *data(runs),
        *what_was_run(runs),
    ]
    named = [labels_of(run) for run in runs if isinstance(run.evaluation.get("labels"), list)]
    default, about = _names_of_page(runs)
    return Page(
        title=title or default,
        about=about,
        facts=_facts(runs),
        strips=_strips(sections, runs),
        cards=headlines(runs),
        sections=_with_own_ids(sections),
        notes=[note for run in runs for note in run.notes],
        palette=Palette(*(named or [("", "")])[0], runs=[run.label for run in runs if run.metrics and len(runs) > 1]),
    )


def _names_of_page(runs: Sequence[RunFiles]) -> tuple[str, str]:
    """What stands above a page without a title of its own, and what is said below it."""
    first = runs[0]
    if len(runs) == 1:
        named = first.evaluation.get("title") if not first.metrics else ""
        about = str(first.evaluation.get("about") or "")
        return str(named or f"{first.method} {first.folder.resolve().name}".strip()), about
    evaluated = [run.label for run in runs if run.evaluation and not run.metrics]
    others = [run.label for run in runs if run.label not in evaluated]
    kinds = [("evaluation", evaluated), ("run", others)]
    counts = [f"{len(labels)} {kind}{'s' if len(labels) > 1 else ''}" for kind, labels in kinds if labels]
    named = [f"{kind}{'s' if len(labels) > 1 else ''}: {', '.join(labels)}." for kind, labels in kinds if labels]
    title = " and ".join(counts) if evaluated else f"{counts[0]} compared"
    return title, " ".join(text[0].upper() + text[1:] for text in named)


def _strips(sections: Sequence[Section], runs: Sequence[RunFiles]) -> list[Strip]:
    notes = [note for block in _blocks(sections) if isinstance(block, Alarms) for note in block.notes]
    times = {note.title: sum(seen["times"] for seen in note.seen) for note in notes}
    named = ", ".join(f"{title} ({count})" if count > 1 else title for title, count in times.items())
    damaged = [note for run in runs for note in run.notes if MISSING not in note]
    said = f"Parts of what the folders hold cannot be read: {len(damaged)}"
    return [
        *([Strip(f"Alarms: {named}", "alarms")] if notes else []),
        *([Strip(said, "missing")] if damaged else []),
    ]


def _readable(text: str) -> str:
    """A text without the marks and blank lines around it that say nothing to a reader."""
    return re.sub(r"\n\s*\n\s*", "\n\n", re.sub(r"^\s*(<s>|<bos>|<\|begin_of_text\|>)", "", text).strip())


def _facts(runs: Sequence[RunFiles]) -> list[tuple[str, str]]:
    seconds = runs[0].evaluation.get("seconds")
    evaluated = []
    for run in runs:
        by = {"lit-align ": run.evaluation.get("version"), "seed ": run.evaluation.get("seed")}
        evaluated.append(", ".join(f"{name}{value}" for name, value in by.items() if value is not None))
    facts = {
        "method": runs[0].method if len(runs) == 1 else "",
        "started from": ", ".join(dict.fromkeys(filter(None, (run.policy for run in runs)))),
        "folders" if len(runs) > 1 else "folder": ", ".join(str(run.folder) for run in runs),
        "took": f"{seconds} s" if seconds and len(runs) == 1 else "",
        "evaluated with": "; ".join(dict.fromkeys(filter(None, evaluated))),
        "page written": f"{now().replace('T', ' ').replace('Z', ' UTC')} with lit-align {__version__}",
    }
    return [(name, value) for name, value in facts.items() if value]


def _curves(runs: Sequence[RunFiles]) -> list[Section]:
    sections = []
    metrics = {run.label: run.metrics for run in runs if run.metrics}
    if curves := training_curves(metrics):
        several = " in the colour of the run" if len(metrics) > 1 else ""
        lead = (
            "Pale lines are the logged values, strong lines their moving average, and dashed lines with open dots "
            f"held-out data{several}."
        )
        sections.append(Section("training", "Training", lead, [Figures("", "", curves, small=True)]))
    if speed := speed_curves({run.label: run.timing for run in runs if run.timing}):
        lead = "By the clock on the wall, without validation; of the machine that the run was on."
        sections.append(Section("speed", "Speed and memory", lead, [Figures("", "", speed, small=True)]))
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
            beside = block.beside and block.beside._replace(id=own(block.beside.id))
            return block._replace(specs=[spec | {"id": own(spec["id"])} for spec in block.specs], beside=beside)
        return block

    return [
        section._replace(id=own(section.id), blocks=[renamed(block) for block in section.blocks])
        for section in sections
    ]


# -------------------------------------------------------------------- files beside the page


def _blocks(sections: Iterable[Section]) -> list[Block]:
    """All blocks, those beside others too."""
    blocks: list[Block] = []
    for section in sections:
        for block in section.blocks:
            blocks += [block, block.beside] if isinstance(block, Figures) and block.beside else [block]
    return blocks


def _colours(page: Page) -> dict[str, str]:
    """Colours that names have outside of figures too; of samples, where figures have one for every column."""
    columns = [block.columns for block in _blocks(page.sections) if isinstance(block, Samples)]
    known = [name for names in columns if all(map(page.palette.variable, names)) for name in names]
    known += [line.series for cards in page.cards for line in cards.lines]
    return {name: page.palette.variable(name) for name in known}


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
    return {
        "title": page.title,
        "about": page.about,
        "facts": dict(page.facts),
        "strips": [strip.words for strip in page.strips],
        "headline": [
            {"of": cards.title, "more": cards.note} | card._asdict() for cards in page.cards for card in cards.lines
        ],
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
