"""Sections on what came of a run: tables and figures of its evaluation, distributions, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lit_align.evaluation.figure_specs import Spec, histogram, spec_of
from lit_align.evaluation.report_blocks import (
    Block,
    Figures,
    Sample,
    Samples,
    Section,
    Table,
    table_of,
)
from lit_align.evaluation.report_headlines import labels_of
from lit_align.evaluation.report_tables import reading
from lit_align.evaluation.run_files import Row, RunFiles, mapping, rows_of, words_of
from lit_align.evaluation.series import is_number

_T = TypeVar("_T")
_MOST_ROUNDS = 4
_MOST_BESIDE = 5
"""Columns that a table may have to stand beside a figure."""
_DASHED = "Dashed lines are means."


def evaluations(runs: Sequence[RunFiles]) -> list[Section]:
    """Tables and figures of each evaluation.json, as it gives them."""
    sections = []
    for run in runs:
        blocks = _arranged(_read_all(run, "tables", table_of), _read_all(run, "figures", spec_of))
        if blocks:
            title, lead = str(run.evaluation.get("title") or "Evaluation"), ""
            if len(runs) > 1:
                title = run.label if run.label.startswith(title) else f"{title}: {run.label}"
                # The page of one folder begins with it.
                lead = str(run.evaluation.get("about") or "")
            sections.append(Section("evaluation", title, lead, blocks))
    return sections


def _arranged(tables: Sequence[Table], figures: Sequence[Spec]) -> list[Block]:
    """Tables, then figures; a narrow table beside the figure of its title, a wide one after the figures."""
    drawn = {spec["title"]: spec for spec in figures}
    narrow = [table for table in tables if table.title in drawn and len(reading(table).columns) <= _MOST_BESIDE]
    titles = {table.title for table in narrow}
    others = [spec for spec in figures if spec["title"] not in titles]
    blocks: list[Block] = [table for table in tables if table.title not in drawn]
    blocks += [Figures("", "", others)] if others else []
    blocks += [Figures("", "", [drawn[table.title]], beside=table) for table in narrow]
    blocks += [table for table in tables if table.title in drawn and table.title not in titles]
    return blocks


def _read_all(run: RunFiles, part: str, reader: Callable[[Row], _T]) -> list[_T]:
    """The parts of evaluation.json that are whole; the others are named on the page."""
    found: list[_T] = []
    given = run.evaluation.get(part)
    if given is not None and not isinstance(given, list):
        run.notes.append(f"{run.folder / 'evaluation.json'}: {part} is not a list")
    for place, raw in enumerate(given if isinstance(given, list) else [], start=1):
        try:
            found.append(reader(raw))
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            name = mapping(raw).get("id") or mapping(raw).get("title") or place
            run.notes.append(f"{run.folder / 'evaluation.json'}: {part}, '{name}' cannot be shown ({error})")
    return found


# -------------------------------------------------------------------- distributions


def distributions(runs: Sequence[RunFiles]) -> list[Section]:
    """Distributions before and after, of every run."""
    blocks: list[Block] = []
    for run in runs:
        specs = _read_all(run, "histograms", lambda raw: spec_of({**raw, "kind": "histogram"}))
        specs = specs or ([] if run.evaluation.get("figures") else _of_scores(run))
        if specs:
            blocks.append(Figures(run.label if len(runs) > 1 else "", "", specs))
    return [Section("distributions", "Distributions", _DASHED, blocks)] if blocks else []


def _of_scores(run: RunFiles) -> list[Spec]:
    """Without a comparison, of the scores and the completions of the run."""
    wanted: list[tuple[str, str, dict[str, list[Any]]]] = []
    for name, what, unit in (("reward", "reward", ""), ("logps", "log-probability", "nats")):
        sides: dict[str, list[Any]] = {}
        for row in run.scores:
            if is_number(row.get(name)):
                sides.setdefault(str(row.get("role", "responses")), []).append(row[name])
        wanted.append((f"Scored responses, {what}", unit, sides))
        wanted.append((f"Margins of the scored pairs, {what}", unit, {"chosen less rejected": _margins(run, name)}))
    lengths: dict[str, list[Any]] = {}
    for row in run.scores:
        lengths.setdefault(str(row.get("role", "responses")), []).append(row.get("tokens"))
    wanted.append(("Lengths of the scored responses", "tokens", lengths))
    steps = sorted({row["step"] for row in run.completions if isinstance(row.get("step"), int)})
    by_step = {
        f"step {step}": [row.get("tokens") for row in run.completions if row.get("step") == step]
        for step in dict.fromkeys((*steps[:1], *steps[-1:]))
    }
    wanted.append(("Lengths of the completions", "tokens", by_step))
    specs = []
    for title, unit, series in wanted:
        numbers = {name: [value for value in values if is_number(value)] for name, values in series.items()}
        if any(numbers.values()):
            specs.append(histogram(title, unit, numbers))
    return specs


def _margins(run: RunFiles, name: str) -> list[float]:
    """For each scored pair, what `name` is of the chosen response less what it is of the rejected one."""
    sides: dict[tuple[str, str], dict[str, float]] = {}
    for row in run.scores:
        if is_number(row.get(name)) and "role" in row:
            sides.setdefault((str(row.get("file")), str(row.get("row"))), {})[str(row["role"])] = row[name]
    return [pair["chosen"] - pair["rejected"] for pair in sides.values() if pair.keys() >= {"chosen", "rejected"}]


# -------------------------------------------------------------------- samples


def samples(runs: Sequence[RunFiles]) -> list[Section]:
    """Texts side by side: of the evaluation, of the score file, of training as it went on."""
    compared: list[Block] = []
    training: list[Block] = []
    for run in runs:
        name = f": {run.label}" if len(runs) > 1 else ""
        for block in (_of_evaluation(run, name), _of_comparison(run, name), _of_score_file(run, name)):
            if block is not None and block.rows:
                compared.append(block)
        rounds = _of_training(run, name)
        if rounds.rows:
            training.append(rounds)
    sections = [Section("samples", "Replies side by side", "", compared)] if compared else []
    if training:
        lead = "The same prompts as training goes on."
        sections.append(Section("during", "Replies during training", lead, training))
    return sections


def _of_evaluation(run: RunFiles, name: str) -> Samples | None:
    given = mapping(run.evaluation.get("samples"))
    columns = given.get("columns")
    rows = [_sample(row, "scores") for row in rows_of(given.get("rows"))]
    names = [str(column) for column in columns] if isinstance(columns, list) else []
    scored = any(score is not None for row in rows for score in row.scores)
    note = str(given.get("note") or ("Beside each text its score." if scored else ""))
    if names == ["chosen", "rejected"]:
        rows = [row._replace(verdict=_verdict(row.scores)) for row in rows]
    return Samples("samples", f"Samples{name}", note, names, rows)


def _verdict(scores: Sequence[Any]) -> str:
    if len(scores) != 2 or not all(is_number(score) for score in scores):
        return ""
    apart = scores[0] - scores[1]
    return f"{'right' if apart > 0 else 'wrong'} by {abs(apart):.3g}" if apart else "a tie"


def _of_comparison(run: RunFiles, name: str) -> Samples:
    rows = [_sample(row, "accepted") for row in rows_of(run.evaluation.get("completions"))]
    note = "The likeliest reply of each model; ✓ marks those that the rule accepts."
    return Samples("replies", f"Replies to held-out prompts{name}", note, list(labels_of(run)), rows)


def _sample(row: Row, marks: str) -> Sample:
    texts = row.get("texts")
    said = [words_of(text) for text in texts] if isinstance(texts, list) else []
    given = row.get(marks)
    padded = ((given if isinstance(given, list) else []) + [None] * len(said))[: len(said)]
    scores, accepted = (padded, []) if marks == "scores" else ([], padded)
    return Sample(words_of(row.get("prompt", "")), said, scores, accepted)


def _of_score_file(run: RunFiles, name: str) -> Samples:
    """Responses to one prompt beside each other, with the reward or the log-probability of each."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for place, row in enumerate(run.scores):
        if "completion" in row or "response" in row:
            # Scores of our verb name the row of the data; other score files an id.
            key = (str(row.get("file")), str(row.get("row", row.get("id", place))))
            groups.setdefault(key, []).append(row)
    measures = [name for name in ("reward", "score", "logps") if any(name in row for row in run.scores)]
    columns: list[str] = []
    rows = []
    for of in groups.values():
        sides = [str(row.get("role") or row.get("model") or row.get("source") or "response") for row in of]
        columns = sides if len(sides) > len(columns) else columns
        scores = [row.get(measures[0]) if measures else None for row in of]
        texts = [words_of(row.get("completion", row.get("response", ""))) for row in of]
        rows.append(Sample(words_of(of[0].get("prompt", "")), texts, scores, []))
    note = f"Beside each text its {measures[0]}, as scores.jsonl has it." if measures else ""
    if columns == ["chosen", "rejected"]:
        rows = [row._replace(verdict=_verdict(row.scores)) for row in rows]
    return Samples("scored", f"Scored responses{name}", note, columns, rows)


def _of_training(run: RunFiles, name: str) -> Samples:
    """What became of each prompt at a few steps of training, the first and the last among them."""
    texts: dict[str, dict[int, str]] = {}
    for row in run.completions:
        if isinstance(row.get("step"), int):
            texts.setdefault(words_of(row.get("prompt", "")), {})[row["step"]] = words_of(row.get("completion", ""))
    steps = sorted({step for by_step in texts.values() for step in by_step})
    if len(steps) > _MOST_ROUNDS:
        places = (round(i * (len(steps) - 1) / (_MOST_ROUNDS - 1)) for i in range(_MOST_ROUNDS))
        steps = [steps[place] for place in places]
    rows = [Sample(prompt, [by_step.get(step, "") for step in steps], [], []) for prompt, by_step in texts.items()]
    return Samples("training", name.removeprefix(": "), "", [f"step {step}" for step in steps], rows)
