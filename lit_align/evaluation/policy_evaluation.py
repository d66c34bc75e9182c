"""From completions and judgements of models to what is said of them: tables, figures, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from lit_align.evaluation.document import Cell, Document, cells
from lit_align.evaluation.intervals import Floats, over_examples
from lit_align.evaluation.judge_facts import fact_rows
from lit_align.evaluation.kept_files import Record
from lit_align.evaluation.policy_files import Prompts, Verdicts
from lit_align.evaluation.ranking_evaluation import (
    LENGTH_COLUMNS,
    LENGTH_NOTE,
    add_ranking,
    length_cells,
    length_controlled_rates,
)
from lit_align.evaluation.rankings import bradley_terry
from lit_align.evaluation.score_files import Scored, prompt_text
from lit_align.evaluation.win_rates import preferences, win_rate
from lit_align.evaluation.word_tables import add_words

_SAMPLES = 12
_MOST_UNJUDGED = 0.02
"""Share of what a judge was asked that may go without a verdict unsaid."""
_INTERVAL = "95 % intervals are from a bootstrap over prompts."


class Evaluated(NamedTuple):
    """Everything that there is of the models."""

    prompts: Prompts
    generations: dict[str, list[Record]]
    """By model, in the order of the prompts."""
    verdicts: dict[str, Verdicts]
    """By judge."""
    baseline: str


def evaluate_policies(found: Evaluated, seed: int = 0) -> Document:
    """Everything that completions and judges say of models.

    Args:
        found: what was generated and judged.
        seed: of resamples.
    """
    document = Document("policies", "Policies: " + ", ".join(found.generations), seed)
    document.labels = list(found.generations)
    document.about = f"{len(found.prompts.asked)} prompts, every model answers each."
    _win_rates(document, found, seed)
    _scores(document, found)
    _models(document, found)
    _unjudged(document, found)
    others = [name for name in found.generations if name != found.baseline]
    for name in others:
        texts = [[record["response"] for record in found.generations[one]] for one in (found.baseline, name)]
        add_words(document, found.baseline, name, *texts)
    _lengths(document, found)
    _samples(document, found)
    rows: list[list[Cell]] = [[reason, count] for reason, count in found.prompts.left_out.items()]
    document.table("Prompts left out", ["reason", "prompts"], rows)
    return document


def won_by(verdicts: Verdicts, one: str, other: str) -> list[float | None]:
    """Per prompt the probability that the first of two models is better."""
    if verdicts.scores:
        return preferences(*(_values(verdicts.scores[name]) for name in (one, other)))
    if (one, other) in verdicts.compared:
        return [record["probability"] for record in verdicts.compared[one, other]]
    turned = [record["probability"] for record in verdicts.compared[other, one]]
    return [None if value is None else 1 - value for value in turned]


def _values(records: Sequence[Scored]) -> list[float | None]:
    return [record.score for record in records]


def _judged(won: Sequence[float | None]) -> bool:
    return any(value is not None for value in won)


# -------------------------------------------------------------------- who wins


def _win_rates(document: Document, found: Evaluated, seed: int) -> None:
    baseline, names = found.baseline, list(found.generations)
    others = [name for name in names if name != baseline]
    pairs = [(name, baseline) for name in others] + list(combinations(others, 2))
    rows: list[list[Cell]] = []
    controlled: list[list[Cell]] = []
    chars = {name: _array(found.generations[name], "len_chars") for name in names}
    for judge, verdicts in found.verdicts.items():
        won = {(one, other): won_by(verdicts, one, other) for one, other in pairs}
        for (one, other), values in won.items():
            if _judged(values):
                rate = win_rate(values, seed)
                counts = [rate.wins, rate.ties, rate.losses, rate.not_judged]
                rows.append([judge, one, other, *cells(rate.rate), *counts])
                if other == baseline:
                    note = f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost."
                    name = f"win rate of {one} against {other}, judged by {judge}"
                    document.headline(name, rate.rate, "%", note, chance=0.5, series=one)
        against = {name: won[name, baseline] for name in others if _judged(won[name, baseline])}
        if against:
            rates = length_controlled_rates(against, chars, baseline, seed)
            controlled += [[judge, name, *length_cells(*rate)] for name, rate in rates.items()]
        _differences(document, judge, verdicts, others, baseline)
    note = "Ties count half; prompts that the judge could not judge count nowhere else."
    columns = ["judge", "model", "against", "win rate", "low", "high", "wins", "ties", "losses", "not judged"]
    document.table("Win rates", columns, rows, f"{note} {_INTERVAL}")
    title = f"Length-controlled win rates against {baseline}"
    document.table(title, ["judge", "model", *LENGTH_COLUMNS], controlled, LENGTH_NOTE)
    for judge, verdicts in found.verdicts.items():
        if len(names) > 2 and verdicts.scores:
            _ranking(document, judge, verdicts, names, seed)
    document.summary["win_rates"] = {
        judge: {row[1]: row[3] for row in rows if row[0] == judge and row[2] == baseline} for judge in found.verdicts
    }
    against_baseline = [row for row in rows if row[2] == baseline]
    if against_baseline:
        document.figure(
            "points",
            f"Win rates against {baseline}",
            f"Ties count half. {_INTERVAL}",
            unit="win rate",
            labels=[f"{row[1]}, by {row[0]}" for row in against_baseline],
            values=[row[3] for row in against_baseline],
            intervals=[[row[4], row[5]] for row in against_baseline],
            owners=[row[1] for row in against_baseline],
            line=0.5,
        )


def _array(records: Sequence[Record], name: str) -> Floats:
    return np.array([record[name] for record in records], dtype=np.float64)


def _differences(document: Document, judge: str, verdicts: Verdicts, others: Sequence[str], baseline: str) -> None:
    for name in others if verdicts.scores else ():
        both = zip(_values(verdicts.scores[name]), _values(verdicts.scores[baseline]), strict=True)
        apart = [ours - theirs for ours, theirs in both if ours is not None and theirs is not None]
        if apart:
            shares = [fmean(part) for part in ([d > 0 for d in apart], [d == 0 for d in apart], [d < 0 for d in apart])]
            note = "{} less {}, per prompt: {:.1%} won, {:.1%} tied, {:.1%} lost.".format(name, baseline, *shares)
            title = f"Score differences of {name} and {baseline} by {judge}"
            document.figure("histogram", title, note, unit="score", series={name: apart}, zero=True)


def _ranking(document: Document, judge: str, verdicts: Verdicts, names: Sequence[str], seed: int) -> None:
    scores = np.array([[np.nan if value is None else value for value in _values(verdicts.scores[name])]
                       for name in names]).T  # fmt: skip
    if not np.isnan(scores).all(0).any():
        ranking = bradley_terry(names, scores, seed)
        add_ranking(document, f"Ranking by Bradley-Terry, {judge}", ranking, "points", "")


# -------------------------------------------------------------------- scores


def _scores(document: Document, found: Evaluated) -> None:
    """Mean scores of every model by every judge: judges tend to prefer models that were trained on them."""
    rows: list[list[Cell]] = []
    judges = {judge: verdicts.scores for judge, verdicts in found.verdicts.items() if verdicts.scores}
    series: dict[str, list[float | None]] = {}
    intervals: dict[str, list[list[float | None]]] = {}
    for judge, by_model in judges.items():
        values = {name: [v for v in _values(records) if v is not None] for name, records in by_model.items()}
        everything = np.array([value for many in values.values() for value in many])
        if not len(everything):
            continue
        centre, spread = float(everything.mean()), float(everything.std()) or 1.0
        series[judge], intervals[judge] = [], []
        for name, own in values.items():
            missing = len(by_model[name]) - len(own)
            if not own:
                rows.append([judge, name, 0, None, None, None, None, missing])
                series[judge].append(None)
                intervals[judge].append([None, None])
                continue
            (mean,) = over_examples([own])
            deviation = float(np.std(own, ddof=1)) if len(own) > 1 else None
            rows.append([judge, name, len(own), *cells(mean), deviation, missing])
            ends = [(float(value or 0) - centre) / spread for value in mean]
            series[judge].append(ends[0])
            intervals[judge].append([ends[1], ends[2]])
        groups = {name: {name: own} for name, own in values.items()}
        document.figure("box", f"Scores by {judge}", unit="score", groups=groups)
        document.summary.setdefault("scores", {})[judge] = {row[1]: row[3] for row in rows if row[0] == judge}
    columns = ["judge", "model", "scored", "mean", "low", "high", "std", "not judged"]
    document.table("Scores", columns, rows, f"Standard deviations are those of a sample. {_INTERVAL}")
    if series:
        note = (
            "Mean score less that of all models, in standard deviations of all of the judge's scores, since judges "
            "have scales of their own. A model trained on a judge's scores does well by that judge: look at the others "
            "too. "
            f"{_INTERVAL}"
        )
        labels = list(found.generations)
        title = "Mean scores by generator and judge"
        document.figure("bars", title, note, unit="standard deviations", labels=labels, series=series,
                        intervals=intervals)  # fmt: skip


# -------------------------------------------------------------------- completions


def _models(document: Document, found: Evaluated) -> None:
    rows: list[list[Cell]] = []
    for name, records in found.generations.items():
        tokens, chars = ([record[unit] for record in records] for unit in ("len_tokens", "len_chars"))
        unfinished = fmean(not record["finished"] for record in records)
        empty = sum(not record["response"].strip() for record in records)
        rows.append([name, len(records), fmean(tokens), median(tokens), fmean(chars), unfinished, empty])
    note = "Tokens are each model's own. Unfinished: share of completions that went on to the longest length."
    columns = ["model", "prompts", "tokens, mean", "tokens, median", "characters, mean", "unfinished", "empty"]
    document.table("Completions", columns, rows, note)
    document.summary["completions"] = {
        str(row[0]): {"tokens": row[2], "characters": row[4], "unfinished": row[5]} for row in rows
    }


def _lengths(document: Document, found: Evaluated) -> None:
    series = {name: [record["len_tokens"] for record in records] for name, records in found.generations.items()}
    medians = ", ".join(f"{name} {median(values):g}" for name, values in series.items())
    document.figure("histogram", "Lengths of completions", f"Medians: {medians}.", unit="tokens", series=series)


def _unjudged(document: Document, found: Evaluated) -> None:
    reasons: Counter[tuple[str, str]] = Counter()
    for judge, verdicts in found.verdicts.items():
        asked = sum(map(len, verdicts.scores.values())) + sum(map(len, verdicts.compared.values()))
        for records in verdicts.scores.values():
            reasons.update((judge, _sentence(r.meta.get("reason", ""))) for r in records if r.score is None)
        for compared in verdicts.compared.values():
            reasons.update((judge, _sentence(r["reason"])) for r in compared if r["probability"] is None)
        missing = sum(count for (name, _), count in reasons.items() if name == judge)
        if missing > _MOST_UNJUDGED * asked:
            document.about += f" {judge} could not judge {missing} of {asked}: do not trust what it says before you "
            document.about += "have seen why."
    rows: list[list[Cell]] = [[judge, reason, count] for (judge, reason), count in sorted(reasons.items())]
    document.table("Not judged", ["judge", "reason", "times"], rows)
    facts = fact_rows({judge: verdicts.facts for judge, verdicts in found.verdicts.items()})
    note = "What judges say of their own ways, since they were last asked."
    document.table("Judges", ["judge", "fact", "value"], facts, note)


def _sentence(reason: str) -> str:
    return reason.partition(": ")[0] or "no reason given"


def _samples(document: Document, found: Evaluated) -> None:
    """Prompts at even distances, with scores of the first judge that gives some."""
    names, count = list(found.generations), len(found.prompts.asked)
    scoring: Mapping[str, Any] = next((v.scores for v in found.verdicts.values() if v.scores), {})
    judge = next((name for name, v in found.verdicts.items() if v.scores), None)
    rows = []
    for place in sorted({index * count // _SAMPLES for index in range(_SAMPLES)}):
        rows.append(
            {
                "prompt": prompt_text(found.prompts.asked[place].prompt),
                "texts": [found.generations[name][place]["response"] for name in names],
                "scores": [scoring[name][place].score if scoring else None for name in names],
            }
        )
    document.sample(names, rows, f"Beside each text its score by {judge}." if judge else "")
