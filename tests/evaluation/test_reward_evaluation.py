"""From score files to what is said of reward models."""

from __future__ import annotations

import numpy as np
import pytest

from lit_align.core.errors import DataError
from lit_align.evaluation.reward_evaluation import evaluate_rewards, read_judged
from tests.evaluation.test_score_files import record


def table(document, title):
    (found,) = [table for table in document.tables if table["title"] == title]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def figure(document, title):
    (found,) = [figure for figure in document.figures if figure["title"] == title]
    return found


def scores(count=40, shift=1.0, seed=0, subsets=("easy", "hard")):
    """Pairs whose chosen response is better by `shift`, and by more in the first subset."""
    generator = np.random.default_rng(seed)
    records = []
    for number in range(count):
        meta = {"subset": subsets[number % len(subsets)], "source": "web" if number % 4 else "book"}
        better = shift * (1 + (number % len(subsets) == 0))
        for side, gain in (("chosen", better), ("rejected", 0.0)):
            length = int(generator.integers(2, 60))
            values = {"len_tokens": length, "meta": meta, "response": f"{side} words {number}"}
            records.append(record(str(number), side, gain + generator.normal(), **values))
    return records


def test_two_models_side_by_side():
    files = {"untrained": scores(shift=0.0, seed=1), "trained": scores(shift=1.5, seed=2)}
    document = evaluate_rewards(files, by=["source"], seed=0)
    first, second = table(document, "Accuracy and rewards")
    assert (first["reward model"], second["reward model"]) == ("untrained", "trained")
    chosen, rejected = ([r.score for r in files["trained"] if r.source == side] for side in ("chosen", "rejected"))
    right = np.mean([a > b for a, b in zip(chosen, rejected, strict=True)])
    assert second["accuracy"] == pytest.approx(right)
    assert second["reward mean"] == pytest.approx(np.mean(chosen + rejected))
    assert second["reward std"] == pytest.approx(np.std(chosen + rejected, ddof=1))
    (against,) = table(document, "Reward models compared")
    assert against["accuracy gained"] == pytest.approx(second["accuracy"] - first["accuracy"])
    assert (against["better on"] - against["worse on"]) / 40 == pytest.approx(against["accuracy gained"])
    (baseline,) = [row for row in table(document, "Length") if row["reward model"] == "trained"]
    assert baseline["model's gain"] == pytest.approx(second["ties half"] - baseline["its accuracy"])
    summary = document.summary["trained"]
    assert {"accuracy", "reward_mean", "reward_std", "n", "n_dropped", "ece", "corr_len"} <= {*summary}
    assert (summary["n"], summary["n_dropped"]) == (40, 0)


def test_groups_hold_all_pairs_and_own_sections_are_subsets():
    document = evaluate_rewards({"rm": scores()}, by=["source", "margin"])
    for title in ("Accuracy by source", "Accuracy by subset"):
        assert sum(row["pairs"] for row in table(document, title)) == 40
    assert "Accuracy by margin" not in [one["title"] for one in document.tables]
    sections = {row["section"]: row["score"] for row in table(document, "Sections")}
    assert sections["overall"] == pytest.approx((sections["easy"] + sections["hard"]) / 2)
    bars = figure(document, "Accuracy by source")
    assert bars["labels"] == ["book", "web"]
    assert len(bars["intervals"]["rm"]) == 2


def test_rewardbench_is_known_by_its_subsets():
    document = evaluate_rewards({"rm": scores(subsets=("math-prm", "hep-go"))})
    sections = {row["section"]: row["score"] for row in table(document, "Sections")}
    subsets = {row["subset"]: row["accuracy"] for row in table(document, "Accuracy by subset")}
    assert sections["Reasoning"] == pytest.approx((984 * subsets["math-prm"] + 164 * subsets["hep-go"]) / (984 + 164))
    assert sections["overall"] == sections["Reasoning"]
    (found,) = [one for one in document.tables if one["title"] == "Sections"]
    assert "Not measured: alpacaeval-easy" in found["note"]


def test_figures_share_their_edges_and_hold_every_score():
    document = evaluate_rewards({"a": scores(seed=1), "b": scores(shift=9.0, seed=2)})
    one, other = figure(document, "Scores by a"), figure(document, "Scores by b")
    assert one["range"] == other["range"]
    assert one["range"][0] <= min(other["series"]["rejected"])
    assert len(one["series"]["chosen"]) == 40
    assert {*figure(document, "Scores of chosen and rejected responses")["groups"]} == {"a", "b"}
    assert figure(document, "Score differences by b")["zero"] is True
    assert "100.0% right" in figure(document, "Score differences by b")["note"]
    assert figure(document, "Calibration curves")["diagonal"] is True
    assert figure(document, "Lengths of responses")["unit"] == "tokens"
    words = {row["word"]: row["typical of"] for row in table(document, "Telling words: chosen and rejected")}
    bars = figure(document, "Telling words: chosen and rejected")
    assert dict(zip(bars["labels"], bars["owners"], strict=True))["rejected"] == "rejected"
    assert words["chosen"] == "chosen"
    assert words["rejected"] == "rejected"


def test_samples_end_with_what_is_most_wrong():
    records = scores(shift=3.0)
    worst = next(index for index, one in enumerate(records) if one.id == "13" and one.source == "chosen")
    records[worst] = records[worst]._replace(score=-50.0)
    samples = evaluate_rewards({"rm": records}).samples
    assert samples["columns"] == ["chosen", "rejected"]
    assert ["chosen words 13", "rejected words 13"] in [row["texts"] for row in samples["rows"]]
    assert -50.0 in [row["scores"][0] for row in samples["rows"]]


def test_models_are_compared_on_the_pairs_that_both_have():
    every = scores()
    fewer = [one for one in scores(seed=3) if int(one.id) < 30]
    document = evaluate_rewards({"a": every, "b": [*fewer, record("x", "chosen", 1.0)]})
    assert [row["pairs"] for row in table(document, "Accuracy and rewards")] == [30, 30]
    left_out = {(row["reward model"], row["reason"]): row["responses"] for row in table(document, "Responses left out")}
    assert left_out == {
        ("a", "pair that another model has not scored"): 20,
        ("b", "no other response to compare with"): 1,
    }
    assert document.summary["a"]["n_dropped"] == 20


def test_what_cannot_be_evaluated():
    with pytest.raises(DataError, match="hold no pairs"):
        evaluate_rewards({"rm": [record("a", "generated", 1.0)]})
    with pytest.raises(DataError, match="no pair in common"):
        evaluate_rewards({"a": scores(2), "b": [one._replace(id="other" + one.id) for one in scores(2)]})


def test_one_pair_is_enough_and_everything_is_the_same_again():
    assert evaluate_rewards({"rm": scores(1)}).tables
    assert evaluate_rewards({"rm": scores()}).as_json() == evaluate_rewards({"rm": scores()}).as_json()


def test_scores_by_who_wrote_the_responses():
    assert "Scores by generator" not in [one["title"] for one in evaluate_rewards({"rm": scores(6)}).tables]
    records = [one._replace(model="good" if one.source == "chosen" else "bad") for one in scores(6)]
    document = evaluate_rewards({"rm": records})
    rows = {row["generator"]: row for row in table(document, "Scores by generator")}
    assert rows["good"]["mean"] == pytest.approx(np.mean([one.score for one in records if one.source == "chosen"]))
    assert rows["bad"]["responses"] == 6
    assert {*figure(document, "Scores by generator and reward model")["groups"]["rm"]} == {"good", "bad"}
    assert figure(document, "Mean scores of generators by rm")["labels"] == ["good", "bad"]


def test_a_response_without_a_score_moves_no_other_pair():
    """Of a row with two rejected responses another model has failed on one."""
    rows = [record("1", "chosen", 2.0), *(record("1", "rejected", score) for score in (1.0, 3.0))]
    failed = [rows[0], rows[1]._replace(score=None), rows[2]]
    models, left_out = read_judged({"a": rows, "b": failed})
    assert [[pair.rejected.score for pair in model.pairs] for model in models] == [[3.0], [3.0]]
    assert ["b", "no score", 1] in left_out


def test_files_of_other_responses_are_refused():
    with pytest.raises(DataError, match="other responses under the same ids"):
        evaluate_rewards({"a": scores(), "b": [r._replace(response=f"of {r.id}, {r.response}") for r in scores()]})
    evaluate_rewards({"a": scores(), "b": [r._replace(response=f" {r.response[:9].upper()}") for r in scores()]})
