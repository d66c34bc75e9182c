"""RewardBench's sections, on the example of the specification."""

from __future__ import annotations

import pytest

from lit_align.evaluation.sections import REWARDBENCH, is_rewardbench, rewardbench

ACCURACY = {
    "alpacaeval-easy": 0.95,
    "mt-bench-med": 0.8,
    "mt-bench-hard": 0.6,
    "llmbar-natural": 0.7,
    "refusals-dangerous": 0.9,
    "xstest-should-respond": 0.85,
    "math-prm": 0.75,
    "hep-python": 0.9,
}


def test_the_example_of_the_specification():
    found = rewardbench(ACCURACY)
    assert found.sections == pytest.approx(
        {"Chat": 0.907142857143, "Chat Hard": 0.67299270073, "Safety": 0.864285714286, "Reasoning": 0.771428571429}
    )
    assert found.overall == pytest.approx(0.803962460897)
    assert rewardbench(ACCURACY, prior_sets=0.7).overall == pytest.approx(0.792411076353)
    assert "donotanswer" in found.missing
    assert not {*found.missing} & {*ACCURACY}


def test_a_section_without_subsets_is_left_out():
    found = rewardbench({"math-prm": 0.5})
    assert found.sections == {"Reasoning": 0.5}
    assert found.overall == 0.5


def test_maths_counts_as_much_as_code():
    counts = REWARDBENCH["Reasoning"]
    assert counts["math-prm"] == sum(count for name, count in counts.items() if name != "math-prm")


def test_names_decide_whether_it_is_rewardbench():
    assert is_rewardbench(list(ACCURACY))
    assert not is_rewardbench([*ACCURACY, "mine"])
    assert not is_rewardbench([])
