"""Rankings from ranked data and from score files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.evaluation.ranking_evaluation import evaluate_ranking, read_ranked, table_of
from tests.evaluation.test_reward_evaluation import table
from tests.evaluation.test_score_files import record


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(scores, models=("a", "b"), responses=None):
    return {"prompt": "p", "responses": responses or ["x"] * len(scores), "scores": scores, "models": list(models)}


def test_ranked_data_are_a_table(tmp_path):
    path = write(tmp_path / "r.jsonl", row([1, 2.5]), row([3, None], ("b", "c"), ["long", ""]))
    found = read_ranked(path)
    assert found.names == ["a", "b", "c"]
    assert np.array_equal(found.scores, [[1, 2.5, np.nan], [np.nan, 3, np.nan]], equal_nan=True)
    assert np.array_equal(found.lengths, [[1, 1, np.nan], [np.nan, 4, 0]], equal_nan=True)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": "p", "responses": ["x"], "scores": [1]}, "lacks a list"),
        ({**row([1, 2]), "scores": 3}, "lacks a list"),
        (row([1]), "differ in length"),
        (row([1, 2], ("a", "a")), "a model stands twice"),
        (row([1, "2"]), "a score is a number"),
        (row([1, True]), "a score is a number"),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, words):
    with pytest.raises(DataError, match=words) as caught:
        read_ranked(write(tmp_path / "r.jsonl", row([1, 2]), bad))
    assert "r.jsonl, row 2" in str(caught.value)


def test_score_files_are_put_together_by_id():
    files = {
        "one": [record("1", "generated", 1.0), record("2", "generated", None)],
        "two": [record("2", "generated", 5.0), record("1", "generated", 3.0, len_chars=2)],
    }
    found = table_of(files)
    assert np.array_equal(found.scores, [[1, 3], [np.nan, 5]], equal_nan=True)
    assert found.lengths[0].tolist() == [8, 2]
    with pytest.raises(DataError, match="an id twice"):
        table_of({"one": files["one"] * 2, "two": files["two"]})
    with pytest.raises(DataError, match="no prompt has scores of two"):
        table_of({"one": files["one"], "two": [record("9", "generated", 1.0)]})


def world(tmp_path, prompts=60):
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(prompts):
        words = ["w" * int(n) for n in generator.integers(1, 90, size=3)]
        rows.append(row([float(s) for s in generator.normal([2.0, 0.0, 0.0])], ("best", "one", "other"), words))
    return read_ranked(write(tmp_path / "r.jsonl", *rows))


def test_the_rankings_of_a_table(tmp_path):
    document = evaluate_ranking(world(tmp_path), "one")
    for title in ("Ranking by mean score", "Ranking by Bradley-Terry", "Ranking by Elo"):
        first, *others = table(document, title)
        assert (first["place"], first["model"], first["group"]) == (1, "best", "a")
        assert [other["group"] for other in others] == ["b", "b"]
    rates = {line["model"]: line for line in table(document, "Win rates against one")}
    assert {*rates} == {"best", "other"}
    assert rates["best"]["win rate"] > 0.8
    assert rates["best"]["low"] < rates["best"]["win rate"] < rates["best"]["high"]
    points = [figure for figure in document.figures if figure["kind"] == "points"]
    assert len(points) == 3
    assert all(low <= value <= high for figure in points
               for value, (low, high) in zip(figure["values"], figure["intervals"], strict=True))  # fmt: skip


def test_scores_that_are_probabilities_are_taken_as_such(tmp_path):
    rows = [row([0.5, 0.9 if number % 3 else 0.2]) for number in range(30)]
    document = evaluate_ranking(read_ranked(write(tmp_path / "r.jsonl", *rows)), "a")
    (rate,) = table(document, "Win rates against a")
    assert rate["win rate"] == pytest.approx((20 * 0.9 + 10 * 0.2) / 30)
    (found,) = [one for one in document.tables if one["title"] == "Win rates against a"]
    assert "probabilities to win" in found["note"]


def test_an_unknown_baseline(tmp_path):
    with pytest.raises(ConfigError, match="no such baseline"):
        evaluate_ranking(world(tmp_path, 12), "nobody")
