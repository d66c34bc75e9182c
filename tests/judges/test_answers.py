"""Finding answers and telling whether they are the same, against numbers worked out elsewhere."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lit_align.judges.answers import EXTRACTORS, as_number, canonical, same_words

TEXTS = [
    "We get 3*4=12. #### 1,200",
    "so #### 5 then #### -7",
    "no marker, total 42 apples.",
    "The result is \\boxed{\\frac{1}{2}}",
    "first \\boxed{3} and finally \\boxed{x^{2}+1}",
    "\\boxed{unclosed",
    "Answer: 17\nwait\nanswer: 18",
    "<answer> The Eiffel Tower. </answer>",
    "nothing here",
]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("hash", ["1200", "-7", None, None, None, None, None, None, None]),
        ("last_number", ["1200", "-7", "42", "2", "1", None, "18", None, None]),
        ("boxed", [None, None, None, "\\frac{1}{2}", "x^{2}+1", None, None, None, None]),
        ("answer_line", [None] * 6 + ["18", None, None]),
        ("answer_tag", [None] * 7 + ["The Eiffel Tower.", None]),
        ("all", TEXTS),
        ("auto", ["1200", "-7", "42", "\\frac{1}{2}", "1", None, "18", None, None]),
    ],
)
def test_the_last_answer_is_found(how, expected):
    assert [EXTRACTORS[how](text) for text in TEXTS] == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("1,200", "1200", True),
        ("42.0", "42", True),
        ("\\dfrac{3}{4}", "3/4", True),
        ("50\\%", "0.5", True),
        ("x^{2}+1", "x^2+1", False),
        ("-\\frac{2}{4}", "-0.5", True),
        ("7", "7.1", False),
        ("$1,200.50", "1200.5", True),
        ("42.", "42", True),
        ("1/0", "1", False),
        ("12,34", "1234", False),
        ("", "0", False),
        ("-", "0", False),
    ],
)
def test_numbers_however_they_are_written(one, other, same):
    first, second = as_number(one), as_number(other)
    assert (first is not None and first == second) is same


@pytest.mark.parametrize(
    ("text", "words"), [("The Eiffel Tower.", "eiffel tower"), ("a  cat, sat", "cat sat"), ("AN apple", "apple")]
)
def test_words_without_what_does_not_matter(text, words):
    assert same_words(text) == words


def test_answers_are_counted_by_what_they_mean():
    assert canonical("42") == canonical("42.0") == Fraction(42)
    assert canonical("The cat") == canonical("cat!") == "cat"


def test_answers_in_responses_that_repeat_themselves():
    """What a model writes that has lost its way takes no longer to read than other text."""
    assert EXTRACTORS["answer_tag"]("<answer>" * 50_000) is None
    assert EXTRACTORS["answer_tag"]("<answer>1</answer> or <answer>2 <answer>3</answer> or</answer>") == "3"
    assert EXTRACTORS["answer_line"]("Answer: a" + " " * 50_000 + "b ")[-2:] == " b"
