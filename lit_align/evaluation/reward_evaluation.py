"""From score files of reward models to what is said of them: tables, figures, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_align.core.errors import DataError
from lit_align.evaluation.calibration import calibration, fitted_temperature, halves
from lit_align.evaluation.document import Cell, Document, cells, common_range
from lit_align.evaluation.generator_scores import add_generators
from lit_align.evaluation.intervals import Interval, Mask, over_clusters
from lit_align.evaluation.reward_metrics import (
    Columns,
    accuracy,
    by_column,
    by_length_sign,
    by_quantile,
    columns_of,
    length_baseline,
    pearson,
    rewards,
    spearman,
)
from lit_align.evaluation.score_files import Pair, Scored, pair_up, prompt_text
from lit_align.evaluation.sections import is_rewardbench, rewardbench
from lit_align.evaluation.word_tables import add_words

SECTION_COLUMN = "subset"
_SAMPLES = 8
_WORST = 4
_COMPARED = 30
"""Letters by which responses are known to be the same."""
_INTERVAL = "95 % intervals are from a bootstrap over rows of the data."
_GROUP = ("pairs", "accuracy", "low", "high", "ties half", "ties")


class Judged(NamedTuple):
    """One reward model on the pairs that all have scored."""

    name: str
    pairs: list[Pair]
    columns: Columns


def read_judged(files: Mapping[str, Sequence[Scored]]) -> tuple[list[Judged], list[list[Cell]]]:
    """Pairs that every reward model has scored, in the order of the first, so that models can be compared on them.

    Args:
        files: records by the name of the reward model.

    Returns:
        Models, and rows (model, reason, responses) of what was left out.

    Raises:
        DataError: a file has no pairs, or files have none in common.
    """
    found = {name: pair_up(records) for name, records in files.items()}
    for name, pairs in found.items():
        if not pairs.pairs:
            fix = "score data with chosen and rejected responses, or ranked ones, with `lit-align score`"
            reasons = ", ".join(f"{count} with {reason}" for reason, count in pairs.left_out.items())
            raise DataError(f"the scores of {name} hold no pairs", value=reasons or "no lines", fix=fix)
    keyed = {name: _keyed(pairs.pairs, files[name]) for name, pairs in found.items()}
    common = set.intersection(*(set(pairs) for pairs in keyed.values()))
    if not common:
        firsts = ", ".join(next(iter(pairs))[0] for pairs in keyed.values())
        fix = "score the same data with every model; ids of the first pairs are shown"
        raise DataError("the score files have no pair in common", value=firsts, fix=fix)
    _check_texts(keyed, common)
    left_out: list[list[Cell]] = []
    for name, keyed_pairs in keyed.items():
        left_out += [[name, reason, count] for reason, count in found[name].left_out.items()]
        if len(keyed_pairs) > len(common):
            left_out.append([name, "pair that another model has not scored", 2 * (len(keyed_pairs) - len(common))])
    models = []
    for name, keyed_pairs in keyed.items():
        kept = [keyed_pairs[key] for key in next(iter(keyed.values())) if key in common]
        models.append(Judged(name, kept, columns_of(kept)))
    return models, left_out


_Key = tuple[Any, ...]


def _keyed(pairs: Sequence[Pair], records: Sequence[Scored]) -> dict[_Key, Pair]:
    """Pairs by names that hold from file to file, also where one of them lacks a score: which responses they are of."""
    seen: Counter[_Key] = Counter()
    places: dict[int, _Key] = {}
    for record in records:
        place = (record.id, record.source, record.meta.get("response"))
        places[id(record)] = (*place, seen[place])
        seen[place] += 1
    return {(*places[id(pair.chosen)], *places[id(pair.rejected)]): pair for pair in pairs}


def _check_texts(keyed: Mapping[str, Mapping[_Key, Pair]], common: Collection[_Key]) -> None:
    """Refuse files whose ids are the same and whose responses are not, such as those of data that were sorted anew.

    Models may see a response with other signs and spaces, or cut.
    """
    (first, pairs), *others = keyed.items()
    for name, theirs in others:
        both = [(_letters(pairs[key].chosen.response), _letters(theirs[key].chosen.response)) for key in common]
        other = [one for one in both if not (one[0].startswith(one[1]) or one[1].startswith(one[0]))]
        if len(other) > len(both) / 2:
            raise DataError(
                "the score files have other responses under the same ids",
                value=f"{first}: {other[0][0]!r}, {name}: {other[0][1]!r}",
                fix="score the same data with every model",
            )


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())[:_COMPARED]


def evaluate_rewards(files: Mapping[str, Sequence[Scored]], by: Sequence[str] = (), seed: int = 0) -> Document:
    """Everything that score files say of reward models.

    Args:
        files: records by the name of the reward model.
        by: columns under `meta` to break accuracies down by.
        seed: of halves and resamples.

    Raises:
        DataError: see `read_judged`.
    """
    models, left_out = read_judged(files)
    document = Document("rewards", "Reward models: " + ", ".join(model.name for model in models), seed)
    document.labels = [model.name for model in models]
    document.about = f"{len(models[0].pairs)} pairs of responses, scored by {' and '.join(document.labels)}."
    _accuracy(document, models)
    _length(document, models)
    _calibration(document, models, seed)
    _breakdowns(document, models, by)
    _sections(document, models)
    _words(document, models[0])
    _distributions(document, models)
    add_generators(document, files)
    document.table("Responses left out", ["reward model", "reason", "responses"], left_out)
    _samples(document, models[-1])
    dropped = dict.fromkeys(document.labels, 0)
    for name, _, count in left_out:
        dropped[str(name)] += int(count or 0)
    for name, count in dropped.items():
        document.summary[name]["n_dropped"] = count
    return document


# -------------------------------------------------------------------- the numbers of a model


def _accuracy(document: Document, models: Sequence[Judged]) -> None:
    rows, against = [], []
    first = models[0]
    for model in models:
        right, scores = accuracy(model.columns), rewards(model.columns)
        rows.append(
            [
                *(model.name, right.pairs, *cells(right.strict), right.half.mean, right.ties),
                *(scores.mean, scores.std, *cells(scores.margin)),
            ]
        )
        document.summary[model.name] = {
            "accuracy": right.strict.mean,
            "accuracy_interval": [right.strict.low, right.strict.high],
            "accuracy_ties_half": right.half.mean,
            "n_ties": right.ties,
            "reward_mean": scores.mean,
            "reward_std": scores.std,
            "margin_mean": scores.margin.mean,
            "n": right.pairs,
        }
        if model is not first:
            gained = _right(model) - _right(first)
            (gain,) = over_clusters([gained.tolist()], model.columns.clusters)
            against.append([model.name, first.name, *cells(gain), int((gained > 0).sum()), int((gained < 0).sum())])
    note = (
        "Accuracy is the share of pairs whose chosen response scores strictly higher, so a tie is wrong; beside it "
        "ties count half. Reward mean and (sample) standard deviation are over the scores of chosen and rejected "
        f"responses together. {_INTERVAL}"
    )
    columns = ["reward model", "pairs", "accuracy", "low", "high", "ties half", "ties", "reward mean", "reward std"]
    document.table("Accuracy and rewards", [*columns, "margin", "margin low", "margin high"], rows, note)
    note = "Difference of the accuracies on the same pairs, ties half, and on how many pairs either is the better one."
    columns = ["reward model", "against", "accuracy gained", "low", "high", "better on", "worse on"]
    document.table("Reward models compared", columns, against, f"{note} {_INTERVAL}")


def _right(model: Judged) -> Any:
    return 0.5 + 0.5 * np.sign(model.columns.chosen - model.columns.rejected)


def _length(document: Document, models: Sequence[Judged]) -> None:
    rows: list[list[Cell]] = []
    for model in models:
        columns, rule = model.columns, length_baseline(model.columns)
        lengths = np.concatenate([columns.chosen_length, columns.rejected_length])
        scores = np.concatenate([columns.chosen, columns.rejected])
        correlations = pearson(scores, lengths), spearman(scores, lengths)
        rows.append([model.name, *correlations, rule.longer, rule.shorter, rule.rule, rule.best, *cells(rule.gain)])
        document.summary[model.name] |= {
            "corr_len": correlations[0],
            "rank_corr_len": correlations[1],
            "length_baseline": rule.best,
            "gain_over_length": list(rule.gain),
        }
        known = document.summary[model.name]
        note = f"{known['n']} pairs; on {rule.best:.1%} of them it is right to {rule.rule}."
        estimate = Interval(known["accuracy"], *known["accuracy_interval"])
        document.headline(f"accuracy of {model.name}", estimate, "%", note, chance=0.5, series=model.name)
    note = (
        "Correlation of reward and length over all responses; accuracy (ties half) of two rules that see nothing but "
        "lengths; and what the model has over the better rule on the same pairs. The better rule was chosen on these "
        f"pairs, which favours it. {_INTERVAL}"
    )
    columns_ = ["reward model", "Pearson", "Spearman", "prefer longer", "prefer shorter", "rule to beat"]
    document.table("Length", [*columns_, "its accuracy", "model's gain", "low", "high"], rows, note)


def _calibration(document: Document, models: Sequence[Judged], seed: int) -> None:
    rows: list[list[Cell]] = []
    lines: dict[str, list[list[float]]] = {}
    for model in models:
        chosen, rejected = model.columns.chosen, model.columns.rejected
        everything = calibration(chosen, rejected)
        rows.append([model.name, "all pairs", 1.0, everything.ece, everything.brier, everything.nll, len(chosen)])
        lines[model.name] = [[part.confidence, part.accuracy] for part in everything.bins]
        document.summary[model.name] |= {"ece": everything.ece, "brier": everything.brier, "nll": everything.nll}
        fit, rest = halves(model.columns.clusters, seed)
        if not (fit.any() and rest.any()):
            continue
        fitted = fitted_temperature(chosen[fit], rejected[fit])
        for temperature in (1.0, fitted):
            if temperature is None:
                rows.append([model.name, "second half", None, None, None, None, int(rest.sum())])
            else:
                measured = calibration(chosen[rest], rejected[rest], temperature)
                values = [temperature, measured.ece, measured.brier, measured.nll, int(rest.sum())]
                rows.append([model.name, "second half", *values])
        document.summary[model.name]["temperature"] = fitted
    note = (
        "The probability of a preference is sigmoid((chosen - rejected) / temperature). ECE: 10 equal bins of "
        "confidence from 0.5 to 1. Brier: mean (1 - p)^2. NLL: mean -ln p, nats (0.693 is chance). The fitted "
        "temperature has the least NLL on the pairs of a random half of the rows and is measured on the others; none "
        "is given where the model is no better than chance there, or never wrong."
    )
    columns = ["reward model", "measured on", "temperature", "ECE", "Brier", "NLL", "pairs"]
    document.table("Calibration", columns, rows, note)
    note = "Temperature 1. On the diagonal, confidence is how often the model is right."
    document.figure("lines", "Calibration curves", note, x="confidence", y="accuracy", series=lines, diagonal=True)


# -------------------------------------------------------------------- accuracy in groups


def _rows(models: Sequence[Judged], masks: Mapping[str, Mask]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for model in models:
        for title, inside in masks.items():
            part = accuracy(model.columns, inside)
            rows.append([model.name, title, part.pairs, *cells(part.strict), part.half.mean, part.ties])
    return rows


def _bars(document: Document, title: str, note: str, rows: Sequence[Sequence[Any]]) -> None:
    """A figure of the accuracies of a table of groups."""
    labels = list(dict.fromkeys(row[1] for row in rows))
    names = list(dict.fromkeys(row[0] for row in rows))
    series = {name: [row[3] for row in rows if row[0] == name] for name in names}
    intervals = {name: [[row[4], row[5]] for row in rows if row[0] == name] for name in names}
    document.figure("bars", title, note, unit="accuracy", labels=labels, series=series, intervals=intervals, line=0.5)


def _breakdowns(document: Document, models: Sequence[Judged], by: Sequence[str]) -> None:
    first = models[0]
    difference = first.columns.chosen_length - first.columns.rejected_length
    unit = first.columns.unit
    signs, quantiles = _rows(models, by_length_sign(first.columns)), _rows(models, by_quantile(difference))
    note = f"Length of the chosen response less that of the rejected one, {unit}: by sign, and in groups of like size."
    columns = ["reward model", "group", *_GROUP]
    document.table("Accuracy by length difference", columns, signs + quantiles, note)
    _bars(document, "Accuracy by length difference", f"Chosen less rejected, {unit}.", quantiles)
    for name in by:
        if name != SECTION_COLUMN:
            rows = _rows(models, by_column(first.pairs, name))
            document.table(f"Accuracy by {name}", ["reward model", name, *_GROUP], rows, _INTERVAL)
            if rows:
                _bars(document, f"Accuracy by {name}", "", rows)


def _sections(document: Document, models: Sequence[Judged]) -> None:
    """RewardBench's sections where the subsets are its own; otherwise every subset is a section."""
    masks = by_column(models[0].pairs, SECTION_COLUMN)
    if not masks:
        return
    subsets = _rows(models, masks)
    document.table("Accuracy by subset", ["reward model", SECTION_COLUMN, *_GROUP], subsets, _INTERVAL)
    rows: list[list[Cell]] = []
    note = "Each subset is a section; overall: their plain mean. Strict accuracy."
    for model in models:
        right = {str(row[1]): float(row[3] or 0) for row in subsets if row[0] == model.name}
        if is_rewardbench(list(masks)):
            scores = rewardbench(right)
            sections, overall = scores.sections, scores.overall
            note = "RewardBench's sections and weights. Strict accuracy; overall: plain mean of the sections."
            if scores.missing:
                note += f" Not measured: {', '.join(scores.missing)}."
        else:
            sections, overall = right, sum(right.values()) / len(right)
        rows += [[model.name, name, value] for name, value in {**sections, "overall": overall}.items()]
        document.summary[model.name]["sections"] = {**sections, "overall": overall}
    document.table("Sections", ["reward model", "section", "score"], rows, note)


# -------------------------------------------------------------------- texts and distributions


def _words(document: Document, model: Judged) -> None:
    sides = [[pair[side].response for pair in model.pairs] for side in (0, 1)]
    add_words(document, "chosen", "rejected", sides[0], sides[1])


def _distributions(document: Document, models: Sequence[Judged]) -> None:
    values = {model.name: {"chosen": model.columns.chosen, "rejected": model.columns.rejected} for model in models}
    edges = common_range(*(scores.tolist() for sides in values.values() for scores in sides.values()))
    for name, sides in values.items():
        note = "The same edges for every reward model."
        document.figure("histogram", f"Scores by {name}", note, unit="score", series=sides, range=edges)
    document.figure("box", "Scores of chosen and rejected responses", unit="score", groups=values)
    for model in models:
        difference = model.columns.chosen - model.columns.rejected
        shares = [float(part.mean()) for part in (difference > 0, difference == 0, difference < 0)]
        title = f"Score differences by {model.name}"
        note = "Chosen less rejected: {:.1%} right, {:.1%} tied, {:.1%} wrong.".format(*shares)
        document.figure("histogram", title, note, unit="score", series={model.name: difference}, zero=True)
    first = models[0].columns
    lengths = {"chosen": first.chosen_length, "rejected": first.rejected_length}
    medians = ", ".join(f"{side} {np.median(values):g}" for side, values in lengths.items())
    document.figure("histogram", "Lengths of responses", f"Medians: {medians}.", unit=first.unit, series=lengths)


def _samples(document: Document, model: Judged) -> None:
    """Some pairs at even distances, then those that the last model got most confidently wrong."""
    count = len(model.pairs)
    margins = model.columns.chosen - model.columns.rejected
    spread = [index * count // min(_SAMPLES, count) for index in range(min(_SAMPLES, count))]
    worst = [int(index) for index in np.argsort(margins, kind="stable")[:_WORST] if margins[index] < 0]
    rows = []
    for index in [*spread, *(index for index in worst if index not in spread)]:
        pair = model.pairs[index]
        texts, scores = [record.response for record in pair], [record.score for record in pair]
        rows.append({"prompt": prompt_text(pair.chosen.prompt), "texts": texts, "scores": scores})
    note = (
        f"Beside each text its score by {model.name}: pairs at even distances, and at the end up to {_WORST} that it "
        "gets wrong by the most."
    )
    document.sample(["chosen", "rejected"], rows, note)
