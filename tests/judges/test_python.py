"""A function of the user's own as a judge."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.judges import PythonJudge

CODE = """
def by_length(prompts, completions, **columns):
    return [len(text) for text in completions]

def with_reasons(prompts, completions, wanted, factor=1):
    pairs = zip(completions, wanted)
    return [None if want is None else (factor * float(text == want), f"wanted {want}") for text, want in pairs]

def fails(prompts, completions, **columns):
    return [1 / len(text) for text in completions]

def fails_together(prompts, completions, **columns):
    if len(prompts) > 1:
        raise RuntimeError("too many")
    return [1.0]

def short(prompts, completions, **columns):
    return [1.0]

def odd(prompts, completions, **columns):
    return [0.5, "good"]

def forgets(prompts, completions, **columns):
    [1.0 for text in completions]

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_function_gets_everything_at_once(file):
    judged = PythonJudge(f"{file}:by_length").score(["p", "q"], ["abc", "d"], other=[1, 2])
    assert [one.score for one in judged] == [3.0, 1.0]


def test_reasons_columns_and_settings(file):
    judge = PythonJudge(f"{file}:with_reasons", settings={"factor": 2})
    judged = judge.score(["p"] * 3, ["a", "b", "c"], wanted=["a", "x", None])
    assert judged == [(2.0, "wanted a"), (0.0, "wanted x"), (None, "the function gave None")]
    assert judge.counts.unjudged == {"the function gave None": 1}


def test_an_error_names_the_row(file):
    with pytest.raises(DataError, match="ZeroDivisionError") as error:
        PythonJudge(f"{file}:fails").score(["p"] * 3, ["a", "b", ""])
    assert (error.value.row, error.value.file) == (3, f"{file}:fails")


def test_an_error_of_all_rows_together(file):
    with pytest.raises(DataError, match="RuntimeError: too many") as error:
        PythonJudge(f"{file}:fails_together").score(["p"] * 2, ["a", "b"])
    assert error.value.row is None


@pytest.mark.parametrize(("name", "row"), [("short", None), ("odd", 2), ("forgets", None)])
def test_results_that_are_no_scores(file, name, row):
    with pytest.raises(DataError) as error:
        PythonJudge(f"{file}:{name}").score(["p"] * 2, ["a", "b"])
    assert error.value.row == row


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("{file}", "is named with its file"),
        ("{file}:nothing", "no function 'nothing'(?s:.*)by_length, with_reasons"),
        ("{file}:number", "no function 'number'"),
        ("none.py:f", "no such file"),
        ("no_such_module_here:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_functions_that_are_not_there(file, path, what):
    with pytest.raises(ConfigError, match=what):
        PythonJudge(path.format(file=file)).score(["p"], ["a"])


def test_a_function_of_a_module():
    judged = PythonJudge("tests.judges.test_python:count_words").score(["p"], ["one two"])
    assert judged[0].score == 2


def count_words(prompts, completions, **columns):
    return [len(text.split()) for text in completions]
