"""From scores of many models on the same prompts to rankings: reading the data, tables, figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.files import iterate_file
from lit_align.evaluation.document import Cell, Document, cells
from lit_align.evaluation.intervals import Floats
from lit_align.evaluation.length_control import LengthControlled, instruction_difficulty, length_controlled
from lit_align.evaluation.rankings import Ranking, bradley_terry, by_mean, elo
from lit_align.evaluation.score_files import Scored
from lit_align.evaluation.win_rates import WinRate, preferences, win_rate

_HEADLINE = "Bradley-Terry"
_COLUMNS = ("prompt", "responses", "scores", "models")
LENGTH_NOTE = (
    "Length-controlled: what a logistic model with the length term set to zero predicts (AlpacaEval 2, arXiv "
    "2404.04475). Difficulty of the prompts is fitted jointly where several models meet the baseline, and left out "
    "otherwise; answers of a terse and a verbose baseline, which the leaderboard adds, are not. Not reliable: fewer "
    "than a tenth of the answers are longer, or fewer than a tenth shorter, so quality and length are hardly told "
    "apart; or there are too few prompts, so that the fit's penalty leaves one half. 95 % intervals are from a "
    "bootstrap over prompts."
)
LENGTH_COLUMNS = ("win rate", "low", "high", "length-controlled", "LC low", "LC high", "effect of length", "reliable")


class Table(NamedTuple):
    """Scores of M models on N prompts."""

    names: list[str]
    scores: Floats
    """[N, M], nan where there is none."""
    lengths: Floats
    """[N, M] characters, nan where there is no response."""


def read_ranked(path: Path) -> Table:
    """Read ranked data whose rows name the models: columns prompt, responses, scores, models.

    Raises:
        DataError: a row has not these columns, or they are not of the same length; the message names it.
    """
    rows: list[dict[str, tuple[float, float]]] = []
    for number, row in iterate_file(path):
        for name in _COLUMNS:
            if name not in row or (name != "prompt" and not isinstance(row[name], list)):
                what, fix = "a row of ranked data lacks a list", f"give each row {', '.join(_COLUMNS)}"
                raise DataError(what, file=str(path), row=number, field=name, value=sorted(row), fix=fix)
        rows.append(_ranked_row(row, path, number))
    names = list(dict.fromkeys(name for row in rows for name in row))
    nothing = (math.nan, math.nan)
    values = np.array([[row.get(name, nothing) for name in names] for row in rows], dtype=np.float64)
    return Table(names, values[:, :, 0], values[:, :, 1])


def is_ranked(path: Path) -> bool:
    """Whether a file holds ranked data, rather than scores of single responses."""
    return "responses" in next(iter(iterate_file(path)))[1]


def _ranked_row(row: Mapping[str, Any], path: Path, number: int) -> dict[str, tuple[float, float]]:
    responses, scores, models = row["responses"], row["scores"], row["models"]
    if not len(responses) == len(scores) == len(models):
        value = f"{len(responses)} responses, {len(scores)} scores, {len(models)} models"
        fix = "give one score and one model for each response"
        raise DataError("lists of a row differ in length", file=str(path), row=number, value=value, fix=fix)
    if len(set(models)) < len(models):
        fix = "keep one response of each model"
        raise DataError(
            "a model stands twice in a row", file=str(path), row=number, field="models", value=models, fix=fix
        )
    found = {}
    for response, score, model in zip(responses, scores, models, strict=True):
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            fix = "write a number, or null where there is none"
            raise DataError("a score is a number", file=str(path), row=number, field="scores", value=score, fix=fix)
        found[str(model)] = (math.nan if score is None else float(score), float(len(str(response))))
    return found


def table_of(files: Mapping[str, Sequence[Scored]]) -> Table:
    """Scores of models from a score file of each, put together by id.

    Raises:
        DataError: an id stands twice in a file, or no id is in two files.
    """
    by_model: dict[str, dict[str, Scored]] = {}
    for name, given in files.items():
        by_model[name] = {record.id: record for record in given}
        if len(by_model[name]) < len(given):
            twice = Counter(record.id for record in given).most_common(1)[0][0]
            fix = "a ranking takes one response of each model to each prompt"
            raise DataError(f"the scores of {name} have an id twice", field="id", value=twice, fix=fix)
    ids = list(dict.fromkeys(id_ for records in by_model.values() for id_ in records))
    if not any(sum(id_ in records for records in by_model.values()) > 1 for id_ in ids):
        fix = "score the responses of all models to the same prompts"
        raise DataError("no prompt has scores of two models", value=", ".join(by_model), fix=fix)
    scores = np.full((len(ids), len(by_model)), np.nan)
    lengths = scores.copy()
    for column, records in enumerate(by_model.values()):
        for row, id_ in enumerate(ids):
            if id_ in records:
                score = records[id_].score
                scores[row, column] = math.nan if score is None else score
                lengths[row, column] = records[id_].len_chars
    return Table(list(by_model), scores, lengths)


# -------------------------------------------------------------------- the document


def evaluate_ranking(table: Table, baseline: str | None = None, seed: int = 0) -> Document:
    """Rank models by mean score, Bradley-Terry and Elo; with a baseline also win rates against it.

    Args:
        table: scores of the models.
        baseline: a model that the others are compared with.
        seed: of resamples and orders.

    Raises:
        ConfigError: there is no such baseline.
        DataError: the models cannot be ranked together.
    """
    document = Document("ranking", f"Ranking of {len(table.names)} models", seed)
    document.labels = table.names
    document.about = f"{len(table.scores)} prompts. Models that share a letter in `group` are not told apart."
    for method, ranking, unit, note in (
        ("mean score", by_mean(table.names, table.scores, seed), "score", ""),
        (
            "Bradley-Terry",
            bradley_terry(table.names, table.scores, seed),
            "points",
            "Every two models play a game on each prompt that both have a score for: the higher score wins, ties are "
            "half a win for each. Maximum likelihood; 400 points are odds of ten to one, the models' mean is 1000.",
        ),
        ("Elo", elo(table.names, table.scores, seed), "points", "The same games and scale, game by game."),
    ):
        add_ranking(document, f"Ranking by {method}", ranking, unit, note)
        if method == _HEADLINE:
            for place, (name, rating) in enumerate(zip(ranking.names, ranking.ratings, strict=True), start=1):
                said = f"by {method}, of {len(ranking.names)} models"
                document.headline(f"{place}. {name}", rating, unit, said, series=name)
    if baseline is not None:
        _against(document, table, baseline, seed)
    return document


def add_ranking(document: Document, title: str, ranking: Ranking, unit: str, note: str) -> None:
    """Add a table and a figure of a ranking."""
    rows: list[list[Cell]] = [
        [place, name, *cells(rating), group]
        for place, (name, rating, group) in enumerate(
            zip(ranking.names, ranking.ratings, ranking.groups, strict=True), start=1
        )
    ]
    said = " ".join(filter(None, [note, *(f"{text}." for text in ranking.notes)]))
    ending = "95 % intervals are from a bootstrap over prompts; models that share a letter are not told apart by it."
    document.table(title, ["place", "model", unit, "low", "high", "group"], rows, f"{said} {ending}".strip())
    intervals = [[rating.low, rating.high] for rating in ranking.ratings]
    values = [rating.mean for rating in ranking.ratings]
    names = ranking.names
    document.figure("points", title, said, unit=unit, labels=names, values=values, intervals=intervals, owners=names)
    document.summary[title] = {
        name: {**rating._asdict(), "group": group}
        for name, rating, group in zip(ranking.names, ranking.ratings, ranking.groups, strict=True)
    }


def _against(document: Document, table: Table, baseline: str, seed: int) -> None:
    if baseline not in table.names:
        raise ConfigError("there is no such baseline", got=baseline, fix=f"one of {', '.join(table.names)}")
    base = table.names.index(baseline)
    own = table.scores[:, base]
    there = table.scores[~np.isnan(table.scores)]
    probabilities = bool((own[~np.isnan(own)] == 0.5).all() and there.min() >= 0 and there.max() <= 1)
    won: dict[str, list[float | None]] = {}
    for column, name in enumerate(table.names):
        values = table.scores[:, column]
        if column == base:
            continue
        if probabilities:
            won[name] = [None if math.isnan(value) else float(value) for value in values]
        else:
            won[name] = preferences(_or_none(values), _or_none(own))
    lengths = {name: table.lengths[:, column] for column, name in enumerate(table.names)}
    rates = length_controlled_rates(won, lengths, baseline, seed)
    note = "Scores are taken as probabilities to win against the baseline, whose own are 0.5." if probabilities else ""
    rows = [[name, *length_cells(*rate)] for name, rate in rates.items()]
    title = f"Win rates against {baseline}"
    document.table(title, ["model", *LENGTH_COLUMNS], rows, f"{note} {LENGTH_NOTE}".strip())


def _or_none(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def length_cells(raw: WinRate, controlled: LengthControlled | None) -> list[Cell]:
    """Cells of `LENGTH_COLUMNS`."""
    if controlled is None:
        return [*cells(raw.rate), None, None, None, None, None]
    reliable = "yes" if controlled.reliable else "no"
    return [*cells(raw.rate), *cells(controlled.rate), controlled.length, reliable]


def length_controlled_rates(
    won: Mapping[str, Sequence[float | None]], lengths: Mapping[str, Floats], baseline: str, seed: int
) -> dict[str, tuple[WinRate, LengthControlled | None]]:
    """Raw and length-controlled win rates of models against a baseline.

    Args:
        won: per model and prompt the probability that the model wins; None where nobody could judge.
        lengths: [N] characters by model, the baseline too.
        baseline: its name.
        seed: of the bootstrap.

    Returns:
        By model; the length-controlled one is None for fewer than ten judged prompts.
    """
    judged = {name: np.array([value is not None for value in values]) for name, values in won.items()}
    shared = np.logical_and.reduce(list(judged.values()))
    difficulty: Floats | None = None
    if len(won) > 1 and shared.sum() >= 10:
        verdicts = np.array([[float(v) for v, kept in zip(values, shared, strict=True) if kept and v is not None]
                             for values in won.values()])  # fmt: skip
        apart = np.array([(lengths[name] - lengths[baseline])[shared] for name in won])
        difficulty = np.zeros(len(shared))
        difficulty[shared] = instruction_difficulty(verdicts, apart)
    found: dict[str, tuple[WinRate, LengthControlled | None]] = {}
    for name, values in won.items():
        controlled = None
        inside = judged[name] if difficulty is None else shared
        if inside.sum() >= 10:
            controlled = length_controlled(
                [float(value) for value, kept in zip(values, inside, strict=True) if kept and value is not None],
                lengths[name][inside],
                lengths[baseline][inside],
                None if difficulty is None else difficulty[inside],
                seed=seed,
            )
        found[name] = (win_rate(values, seed), controlled)
    return found
