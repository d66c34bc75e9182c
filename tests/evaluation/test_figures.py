"""Figures: the numbers behind them, what they leave out, and that they are the same each time."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from lit_align.evaluation.drawings import COLOURS, GREEN, GREY, Palette
from lit_align.evaluation.figure_specs import box_of, histogram, names_of, slug, spec_of
from lit_align.evaluation.figures import describe, render_figure
from lit_align.evaluation.series import collect, extremes, smooth, thin
from lit_align.evaluation.training_figures import speed_curves, training_curves
from tests.evaluation.pages import WRONG, all_kinds, metrics

RAW = {figure["id"]: figure for figure in all_kinds()["figures"]}


@pytest.mark.parametrize("name", RAW)
def test_every_kind_is_drawn_in_every_form(name):
    spec = spec_of(RAW[name])
    first, second = (render_figure(spec, Palette()) for _ in range(2))
    assert first == second, "the same each time"
    assert first.svg.startswith("<svg role=")
    assert not re.search(r"#[0-9a-f]{6}", first.svg), "all colours follow the page"
    assert "var(" not in first.file
    assert first.png.startswith(b"\x89PNG")
    assert describe(spec).startswith(f"{spec['title']} (")


def test_histograms_count_over_common_edges():
    spec = spec_of(RAW["scores"])
    assert (spec["edges"][0], spec["edges"][-1]) == (-4, 4)
    for side, values in RAW["scores"]["series"].items():
        assert spec["counts"][side] == np.histogram(values, bins=spec["edges"])[0].tolist()
        assert sum(spec["counts"][side]) == spec["numbers"][side] == 60
        assert spec["means"][side] == pytest.approx(np.mean(values))
        assert spec["medians"][side] == pytest.approx(np.median(values))


@pytest.mark.parametrize("values", [[1.5], [2, 2, 2], [-1e-9, 1e9], [0.5, math.nan], [0.1, 0.7, 1e-9, 3.3], [5, 70]])
@pytest.mark.parametrize("limits", [None, [-1, 1]])
def test_no_value_falls_out_of_a_histogram(values, limits):
    spec = histogram("Odd", "", {"one": values}, range=limits)
    assert sum(spec["counts"]["one"]) == sum(map(math.isfinite, values))
    assert render_figure(spec, Palette()).svg.startswith("<svg")


@pytest.mark.parametrize("values", [[], [True], [None, "x"], [math.inf]])
def test_a_figure_without_numbers_is_refused(values):
    with pytest.raises(ValueError, match="no numbers to draw"):
        histogram("Odd", "", {"one": values})


def test_values_that_are_no_numbers_are_counted():
    spec = histogram("Odd", "", {"one": [1, None, math.nan, 2]}, note="Mine.")
    assert spec["note"] == "Mine. 2 values that are no numbers are left out."


@pytest.mark.parametrize(
    "raw", [{"kind": "pie"}, {"kind": "box"}, {"kind": "bars", "labels": ["a"], "series": {"x": []}}]
)
def test_figures_that_are_not_whole_are_refused(raw):
    with pytest.raises(ValueError):
        spec_of(raw)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("name", RAW)
def test_parts_of_the_wrong_kind_are_refused_in_words_or_drawn(name, wrong):
    for key in ("series", "groups", "labels", "values", "intervals", "unit", "range", "x", "title", "note", "kind"):
        try:
            spec = spec_of(RAW[name] | {key: wrong})
        except (ValueError, OverflowError):
            continue
        describe(spec)
        if key in ("labels", "intervals", "unit", "range") and wrong in ("x", [], None):
            render_figure(spec, Palette())


def test_boxes_are_those_of_the_textbook():
    box = box_of([1, 2, 3, 4, 5, 6, 7, 8, 100])
    assert (box["q1"], box["median"], box["q3"]) == (3, 5, 7)
    assert (box["low"], box["high"], box["outliers"]) == (1, 8, [100])


def test_points_are_bars_without_bars():
    spec = spec_of(RAW["ranks"])
    assert spec["series"] == {"points": [1100, 1000, 900]}
    assert spec["intervals"] == {"points": [[1080, 1120], [990, 1010], [880, 920]]}


def test_bars_and_points_have_the_colours_of_their_owners():
    raw = {"title": "t", "labels": ["a, by x", "b, by x"], "unit": "z", "line": 0.5, "owners": ["a", "b"]}
    palette = Palette()
    for kind in ({"kind": "points", "values": [0.4, 0.6]}, {"kind": "bars", "series": {"z": [0.4, 0.6]}}):
        spec = spec_of(raw | kind)
        assert names_of(spec) == ["a", "b"]
        drawn = render_figure(spec, palette)
        assert all(colour in drawn.file for colour in palette.of(["a", "b"]).values())
        assert spec["line"] == 0.5
        with pytest.raises(ValueError, match="1 owners for 2 labels"):
            spec_of(raw | kind | {"owners": ["a"]})


def test_a_legend_names_each_run_once():
    records = [{"step": s, "loss": 1 / s, "val/loss": 2 / s} for s in (1, 2, 3)]
    (spec,) = training_curves({"one": records, "two": records})
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", render_figure(spec, Palette()).svg)
    assert [labels.count(name) for name in ("one", "two", "one, held out")] == [1, 1, 0]


def test_large_clouds_are_thinned_and_it_is_said():
    points = [[x, x] for x in range(9000)]
    spec = spec_of({"kind": "scatter", "title": "t", "x": "", "y": "", "series": {"a": points}})
    assert (spec["every"], len(spec["series"]["a"])) == (5, 1800)


def test_a_name_has_one_colour():
    palette = Palette("SFT", "DPO", runs=["r1", "r2"])
    assert palette.of(["DPO", "SFT"]) == {"DPO": GREEN, "SFT": GREY}
    assert palette.of(["chosen", "rejected"]) == {"chosen": COLOURS[0], "rejected": COLOURS[1]}
    runs = palette.of(["r1", "r2"])
    assert len({*runs.values(), GREY, GREEN, COLOURS[0], COLOURS[1]}) == 6, "of their own"
    assert palette.of(["R1"]) == {"R1": runs["r1"]}, "a model named after its run"
    assert palette.of(["R2", "r2"])["R2"] != runs["r2"], "but not beside it"
    assert palette.variable("DPO") == "var(--c2)"
    assert palette.variable("nobody") == ""
    first = palette.of(["a", "b", "c"])
    assert len({*first.values()}) == 3
    assert palette.of(["b", "x"])["b"] == first["b"]


def test_names_of_files_are_plain():
    assert slug("rewards/../Margins: é <b>") == "rewards_margins_b"
    assert slug("///") == "figure"


# -------------------------------------------------------------------- curves


def test_metrics_that_are_no_numbers_are_left_out():
    rows = [{"step": 0, "loss": float("nan"), "kl": float("inf"), "grad_norm": 1, "text": "x"}, {"loss": 3.0}]
    assert collect(rows) == {"grad_norm": [(0.0, 1.0)]}


def test_a_loss_that_is_the_likelihood_is_drawn_once():
    rows = [{"step": step, "loss": 1 / (step + 1), "nll_loss": 1 / (step + 1)} for step in range(4)]
    assert [figure["title"] for figure in training_curves({"r": rows})] == ["Loss"]


def test_unknown_metrics_have_panels_unless_they_never_change():
    rows = [{"step": step, "diversity": step, "alarms/displacement": 0.0} for step in range(4)]
    assert [figure["title"] for figure in training_curves({"r": rows})] == ["diversity"]


def test_several_runs_share_a_figure_per_metric():
    runs = {"a": list(metrics()), "b": list(metrics(30))}
    figures = {figure["title"]: figure for figure in training_curves(runs)}
    assert {*figures["Loss"]["series"]} == {"a", "a, as logged", "a, held out", "b", "b, as logged", "b, held out"}
    assert "Implicit rewards: chosen" in figures
    assert "Implicit rewards" not in figures


def test_memory_is_drawn_in_gib():
    rows = [{"step": 1, "process_bytes": 3 << 30}, {"step": 2, "process_bytes": 1 << 30, "gpu_peak_bytes": 1 << 29}]
    figures = {figure["title"]: figure["series"] for figure in speed_curves({"r": rows})}
    assert figures["Memory of the process"] == {"training": [[1, 3], [2, 1]]}
    assert figures["Peak memory on the GPU"] == {"training": [[2, 0.5]]}


def test_long_runs_are_drawn_with_few_points():
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    assert len(thin(points)) == 400
    assert thin(points)[0] == (12.0, 12 / 25)
    assert thin(points[:300]) == points[:300]


def test_extremes_survive():
    points = [(float(step), 0.0) for step in range(100_000)]
    points[12_345], points[77_777] = (12_345.0, 9.0), (77_777.0, -9.0)
    kept = extremes(points)
    assert len(kept) <= 810
    assert {points[12_345], points[77_777], points[0], points[-1]} <= {*kept}
    assert kept == sorted(kept)
    assert extremes(points[:800]) == points[:800]


def test_the_moving_average_keeps_a_constant_and_the_length():
    assert smooth([2.0] * 50) == [2.0] * 50
    assert smooth([0.0, 3.0, 0.0]) == [1.5, 1.0, 1.5]


def test_figures_are_the_same_each_time():
    rows = list(metrics())
    assert training_curves({"r": rows}) == training_curves({"r": rows})
