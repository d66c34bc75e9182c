"""Scores by who wrote the responses, where the data say so: one reward model's view of many generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_align.evaluation.document import Cell, Document, cells
from lit_align.evaluation.intervals import over_examples
from lit_align.evaluation.score_files import Scored


def by_generator(records: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Scored responses by the model that wrote them; those of unknown models are left out."""
    found: dict[str, list[Scored]] = {}
    for record in records:
        if record.model and record.score is not None:
            found.setdefault(record.model, []).append(record)
    return found


def add_generators(document: Document, files: Mapping[str, Sequence[Scored]]) -> None:
    """Add a table, bars and boxes of scores by generator and reward model, where there are two generators or more.

    Args:
        document: where.
        files: records by the name of the reward model.
    """
    groups = {rm: by_generator(records) for rm, records in files.items()}
    groups = {rm: models for rm, models in groups.items() if len(models) > 1}
    if not groups:
        return
    rows: list[list[Cell]] = []
    means: dict[str, dict[str, list[Cell]]] = {}
    values: dict[str, dict[str, list[float]]] = {}
    for rm, models in groups.items():
        values[rm] = {model: [r.score for r in records if r.score is not None] for model, records in models.items()}
        means[rm] = {model: cells(over_examples([scores])[0]) for model, scores in values[rm].items()}
        rows += [[rm, model, len(values[rm][model]), *ends] for model, ends in means[rm].items()]
    note = "Mean scores; 95 % intervals are from a bootstrap over responses. Reward models have scales of their own."
    document.table("Scores by generator", ["reward model", "generator", "responses", "mean", "low", "high"], rows, note)
    document.figure("box", "Scores by generator and reward model", unit="score", groups=values)
    for rm, ends in means.items():
        labels = list(ends)
        series = {rm: [ends[model][0] for model in labels]}
        intervals = {rm: [ends[model][1:] for model in labels]}
        title = f"Mean scores of generators by {rm}"
        document.figure("bars", title, unit="score", labels=labels, series=series, intervals=intervals)
