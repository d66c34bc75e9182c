"""Judges that check: right is 1, wrong is 0, and without a known answer there is no score."""

from __future__ import annotations

import gzip
import json

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.judges import ExactMatch, FormatMatch, NumericMatch, RegexMatch


def scores(judge, completions, **columns):
    return [judged.score for judged in judge.score(["p"] * len(completions), completions, **columns)]


class TestNumericMatch:
    def test_numbers_are_compared_not_texts(self):
        given = ["It is 1,200.", "#### 1200.0", "1201", "none", "I say 7 \\boxed{2400/2} 9"]
        assert scores(NumericMatch(), given, ground_truth=["1200"] * 5) == [1, 1, 0, 0, 1]

    def test_the_known_answer_may_be_a_worked_solution(self):
        solution = "Half of 36 is <<36/2=18>>18 items.\n#### 24"
        assert scores(NumericMatch("answer"), ["so 24", "so 18"], answer=[solution] * 2) == [1, 0]

    def test_any_of_several_known_answers_will_do(self):
        assert scores(NumericMatch(), ["3", "4", "5"], ground_truth=[["3", "4"]] * 3) == [1, 1, 0]

    def test_a_tolerance_is_a_share_of_the_known_number(self):
        assert scores(NumericMatch(tolerance=0.01), ["101", "102", "-101"], ground_truth=[100] * 3) == [1, 0, 0]
        assert scores(NumericMatch(tolerance=0.01), ["0", "0.001"], ground_truth=["0"] * 2) == [1, 0]

    def test_without_a_known_number_there_is_no_score(self):
        judge = NumericMatch()
        assert scores(judge, ["1", "1"], ground_truth=["unknown", None]) == [None, None]
        assert judge.counts.unjudged == {"the data have no answer to compare with": 2}

    def test_without_the_column(self):
        with pytest.raises(DataError, match="NumericMatch needs the column 'ground_truth'"):
            NumericMatch().score(["p"], ["1"])

    def test_it_agrees_with_the_labels_of_gsm8k(self, shared_dir):
        """Measured on all 3,980 solutions: 100 %."""
        with gzip.open(shared_dir / "data" / "gsm8k_solutions.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        judged = NumericMatch().score(
            [row["question"] for row in rows],
            [row["solution"] for row in rows],
            ground_truth=[row["ground_truth"] for row in rows],
        )
        agree = [one.score == row["is_correct"] for one, row in zip(judged, rows, strict=True)]
        assert sum(agree) / len(agree) > 0.999

    def test_gsm8ks_own_answers_are_right(self, shared_dir):
        with gzip.open(shared_dir / "data" / "gsm8k_train.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        answers = [row["answer"] for row in rows]
        assert set(scores(NumericMatch("answer", extract="hash"), answers, answer=answers)) == {1.0}
        others = [*answers[1:], answers[0]]
        assert sum(scores(NumericMatch("answer", extract="hash"), others, answer=answers)) < 0.1 * len(answers)


class TestExactMatch:
    def test_texts(self):
        assert scores(ExactMatch(), [" Paris ", "paris"], ground_truth=["Paris"] * 2) == [1, 0]

    def test_words(self):
        judge = ExactMatch(extract="answer_tag", compare="words")
        given = ["<answer>The Eiffel tower!</answer>", "Eiffel Tower", "<answer>tower</answer>"]
        assert scores(judge, given, ground_truth=["Eiffel Tower"] * 3) == [1, 0, 0]

    def test_an_unknown_way_to_find_answers(self):
        with pytest.raises(ConfigError, match="one of auto, hash"):
            ExactMatch(extract="guess")


class TestRegexMatch:
    def test_any_match(self):
        assert scores(RegexMatch("colou?r"), ["a color", "colours", "hue"]) == [1, 1, 0]
        assert scores(RegexMatch("colou?r", wanted=False), ["a color", "hue"]) == [0, 1]
        assert scores(RegexMatch(r"\w+", whole=True), ["one", "one two"]) == [1, 0]

    def test_what_a_group_holds(self):
        judge = RegexMatch(r"= (\w+)", answer_column="answer")
        assert scores(judge, ["x = a, y = b", "x = b, y = a", "nothing", "x = a"], answer=["b", "b", "b", None]) == [
            1,
            0,
            0,
            None,
        ]

    @pytest.mark.parametrize(("pattern", "column"), [("(", None), ("a", "answer")])
    def test_patterns_that_will_not_do(self, pattern, column):
        with pytest.raises(ConfigError, match="the regular expression"):
            RegexMatch(pattern, answer_column=column)


class TestFormatMatch:
    def test_thinking_only(self):
        texts = [
            "<think>a</think>b",
            "<think>a b",
            "x<think>a</think>b",
            "<think>a<think>b</think>c",
            "<think>line1\nline2</think>\nans",
            "<think></think>",
        ]
        assert scores(FormatMatch(["think"]), texts) == [1, 0, 0, 0, 1, 1]

    def test_parts_in_order(self):
        texts = [
            "<think>a\nb</think>\n<answer>c</answer>\n",
            "<answer>c</answer><think>a</think>",
            "<think>a</think> so <answer>c</answer>",
            "<think>a</think><answer>c</answer><answer>d</answer>",
            "<think>a</think>",
        ]
        assert scores(FormatMatch(), texts) == [1, 0, 0, 0, 0]

    @pytest.mark.parametrize("tags", [[], ["<think>"]])
    def test_tags_are_names(self, tags):
        with pytest.raises(ConfigError, match="tags are names"):
            FormatMatch(tags)
