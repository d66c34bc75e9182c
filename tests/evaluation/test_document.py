"""Documents: what is not finite is null, and tables read well."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lit_align.evaluation.document import Document, cell_text, common_range, slug, table_text


def example() -> Document:
    document = Document("rewards", "A | title", 3)
    document.about = "About it."
    document.table("First table", ["name", "value"], [["a | b", 0.12345], ["c", None], ["d", 1234]], "A note.")
    document.table("Empty", ["name"], [])
    document.figure("histogram", "Scores", unit="score", series={"x": np.array([1 / 3, float("nan"), 2])})
    return document


def test_what_is_written(tmp_path):
    document = example()
    files = document.write(tmp_path / "out")
    assert [file.name for file in files] == ["evaluation.json", "evaluation.md"]
    content = json.loads(files[0].read_text())
    assert content["kind"] == "rewards"
    assert content["seed"] == 3
    assert [table["id"] for table in content["tables"]] == ["first-table"]
    assert content["figures"] == [
        {
            "id": "scores",
            "title": "Scores",
            "note": "",
            "kind": "histogram",
            "unit": "score",
            "series": {"x": [0.333333, None, 2]},
        }
    ]
    assert "samples" not in content
    text = files[1].read_text()
    assert "| a \\| b | 0.123 |" in text
    assert "| c | – |" in text
    assert "A note." in text


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(AssertionError):
        example().table("t", ["a", "b"], [[1]])


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, "–"), (float("inf"), "–"), (1234, "1,234"), (1234.56, "1,234.6"), (12.345, "12.35"), (-0.5, "-0.500")],
)
def test_cells(cell, text):
    assert cell_text(cell) in (text, text.replace("12.35", "12.34"))


def test_a_table_for_the_terminal():
    lines = table_text(example().tables[0]).splitlines()
    assert lines[0] == "First table"
    assert lines[1] == "name   value"
    assert lines[3:] == ["a | b  0.123", "c          –", "d      1,234"]


def test_ranges_and_slugs():
    assert common_range([1.0, 3.0], [-2.0]) == [-2, 3]
    assert common_range([1.0]) == [0.5, 1.5]
    assert slug("Accuracy by length, in %!") == "accuracy-by-length-in"
