"""Parts of the report: headline numbers, tables, cells and samples as people read them."""

from __future__ import annotations

import json
import math
import re

import pytest

from lit_align.evaluation.report_blocks import Share, number, shown, table_of
from lit_align.evaluation.report_tables import reading
from tests.evaluation import pages
from tests.evaluation.pages import build, words_of


def test_headlines_with_intervals(tmp_path):
    line = {"name": "accuracy of rm", "unit": "%", "after": 0.583, "interval": [0.491, 0.667], "chance": 0.5}
    points = {"name": "1. m", "unit": "points", "after": 1100.0, "interval": [None, 3], "note": "of 2", "series": "m"}
    lines_ = [line, points, *({"name": f"n{n}", "after": n} for n in range(9))]
    pages.write_evaluation(tmp_path, {"title": "T", "headline": lines_})
    html, page = build(tmp_path)
    words = words_of(page)
    assert "Accuracy of rm 58.3 % 95 %: 49.1 to 66.7 %" in words
    assert 'style="left: 49.1%; width: 17.6%"' in html
    assert "1100.00 points" in words
    assert "5 more in its section." in words
    shown_ = json.loads((tmp_path / "report.json").read_text())["headline"]
    assert shown_[0]["interval"] == [0.491, 0.667]
    assert shown_[1]["interval"] is None


def test_an_interval_stands_beside_its_estimate():
    columns = ["model", "pairs", "accuracy", "low", "high", "margin", "margin low", "margin high", "high"]
    rows = [["a", 108, 0.58333, 0.49074, 2 / 3, 12.0, -0.5, 1.25, 1], ["b", 7, None, None, None, 3.0, 2.0, 4.0, 2]]
    read = reading(table_of({"title": "t", "columns": columns, "rows": rows}))
    assert read.columns == ["model", "pairs", "accuracy", "margin", "high"]
    assert read.numeric == [False, True, True, True, True]
    assert read.rows[0] == [("a", ""), ("108", ""), ("0.583", "[0.491, 0.667]"), ("12.00", "[-0.50, 1.25]"), ("1", "")]
    assert read.rows[1][2:4] == [("–", ""), ("3.00", "[2.00, 4.00]")]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([2.35, -1.2345, 0.0], ["2.350", "-1.234", "0.000"]),
        ([25.267, 3.2], ["25.27", "3.20"]),
        ([1100.0, 997.4], ["1100", "997"]),
        ([1e-7, 0.5], ["1e-07", "0.5"]),
        ([1.0, 2.0], ["1", "2"]),
        ([1, 2.5], ["1", "2.5"]),
        ([Share(0.5), None], ["50 %", "–"]),
        (["x", 0.5], ["x", "0.5"]),
    ],
)
def test_numbers_of_a_column_have_the_same_digits(column, texts):
    read = reading(table_of({"title": "t", "columns": ["c"], "rows": [[cell] for cell in column]}))
    assert [row[0].text for row in read.rows] == texts


def test_long_tables_are_shown_in_part(tmp_path):
    rows = [[f"word{n}", n] for n in range(40)]
    tables = [
        {"title": "Words", "columns": ["word", "z"], "rows": rows, "shown": [0, 39, 99, "x"]},
        {"title": "Others", "columns": ["word", "z"], "rows": rows},
        {"title": "Few", "columns": ["word", "z"], "rows": rows[:30]},
    ]
    figure = {"kind": "bars", "title": "Words", "labels": ["a"], "series": {"z": [1]}, "note": "how"}
    pages.write_evaluation(tmp_path, {"tables": tables, "figures": [figure]})
    html, _ = build(tmp_path)
    assert html.count("<summary>All 40 rows</summary>") == 2
    beside = html[html.index('class="beside"') :]
    assert [beside[: beside.index("<details>")].count(f">word{n}<") for n in (0, 1, 39)] == [1, 0, 1]
    assert html.count(">word29<") == 3
    assert [len(table["rows"]) for table in json.loads((tmp_path / "report.json").read_text())["tables"][:3]] == [
        40, 30, 40,
    ]  # fmt: skip


def test_samples_of_pairs_say_whether_the_scores_are_right(tmp_path):
    rows = [{"prompt": f"p{n}", "texts": ["<s> \n\n\n a", "b"], "scores": s}
            for n, s in enumerate([[1.5, 0.25], [0, 2], [1, 1], [None, 1], [3]])]  # fmt: skip
    pages.write_evaluation(tmp_path, {"samples": {"columns": ["chosen", "rejected"], "rows": rows, "note": "by rm"}})
    html, page = build(tmp_path)
    assert re.findall(r'class="verdict (\w+)">([^<]*)<', html) == [
        ("yes", "right by 1.25"), ("no", "wrong by 2"), ("no", "a tie"),
    ]  # fmt: skip
    assert "by rm" in words_of(page)
    assert "<s>" not in words_of(page)
    assert html.count('class="dot" style="background: var(--c0)"') == 5, "the colour of the figures"
    assert html.count('class="score best"') == 2, "where one is higher"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.5, "%", "50 %"), (0.994, "%", "99.4 %"), (None, "%", "–"), (1.234, "nats", "1.23"), (2e-5, "", "2.0e-05")],
)
def test_numbers_are_readable(value, unit, text):
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (12, "12"),
        (0.61538, "0.6154"),
        (Share(0.61538), "61.5 %"),
        (math.nan, "–"),
        ("x", "x"),
    ],
)
def test_cells_are_readable(cell, text):
    assert shown(cell) == text
