"""The report: complete, in one file, safe against what a model may write, and content with whatever a run left."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest

import lit_align
from lit_align.core.errors import ConfigError
from lit_align.data.module import PreferenceDataModule
from lit_align.evaluation.figures import render_figure
from lit_align.evaluation.report import build_report
from lit_align.tools.report import main, with_runs
from tests.evaluation import pages
from tests.evaluation.page_numbers import OWN, complaints, without_figures
from tests.evaluation.pages import ATTACK, FILES, build, evaluation, lines, metrics, words_of
from tests.rows import write_files

DRAWN: dict = {}


@pytest.fixture(autouse=True)
def _figures_are_drawn_once(monkeypatch):
    """Most pages here have the same figures, and drawing is nearly all that a page takes."""

    def draw(spec, palette, *, small):
        key = json.dumps([spec, palette._colours, small])
        if key not in DRAWN:
            DRAWN[key] = render_figure(spec, palette, small=small), dict(palette._colours)
        drawn, colours = DRAWN[key]
        palette._colours = dict(colours)
        return drawn

    monkeypatch.setattr("lit_align.evaluation.report.render_figure", draw)


@pytest.fixture
def run(tmp_path):
    return pages.write_run(tmp_path / "run")


@pytest.fixture
def other(tmp_path):
    """Another run of the same method."""
    folder = pages.write_run(tmp_path / "earlier")
    (folder / "evaluation.json").unlink()
    (folder / "alarms.jsonl").write_text("")
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("beta: 0.5", "beta: 0.1"))
    return folder


# -------------------------------------------------------------------- the page


def test_a_page_shows_everything_of_a_run(run):
    html, page = build(run, title="My run")
    words = words_of(page)
    for text in (
        "My run", "What this is.", "50 %", "93.8 %", "3.21 nats", "SFT: – nats", "SFT + DPO", "How boring!",
        "after 50 steps", "Implicit rewards", "Reward margin", "Reward accuracy", "Log-probability of responses",
        "Learning rate", "Margins", "2 (rows 3, 7)", "a note", "some/model", "beta: 0.5", "torch",
        "The other 6 prompts", "Throughput", "Memory of the process", "2026-01-02 03:04:05", "CPU × 2", "1.2.3",
        "0 to 20 or later", "20 to 40", "killed, or still running", "finished", "where this page was written",
    ):  # fmt: skip
        assert text in words, text
    assert "revision" not in words
    assert "Not on this page" not in words
    assert html.count("<svg") >= 8
    assert html.count("✓") == 12 + 1
    assert html.count("✗") == 12


def test_a_page_needs_nothing_else(run):
    html, page = build([run, pages.write_evaluation(run.with_name("evaluated"))])
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for name, value in page.attributes:
        if name in ("src", "href", "action", "data", "srcset", "poster", "background"):
            assert value.startswith("#"), (name, value)
        assert not name.startswith("on")
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "http" not in html


def test_links_of_the_contents_lead_somewhere(run, other):
    _, page = build([run, other])
    ids = [value for name, value in page.attributes if name == "id"]
    assert len({*ids}) == len(ids)
    links = [value[1:] for name, value in page.attributes if name == "href" and not value.startswith("#m")]
    assert {"alarms", "comparison", "training"} <= {*links}
    assert {*links} <= {*ids}


def test_everything_is_escaped(run):
    html, page = build(run, title=ATTACK)
    assert "<script" not in html
    assert "<img" not in html
    assert ATTACK in "".join(page.words)


def test_names_of_metrics_and_of_series_are_escaped(run):
    (run / "metrics.jsonl").write_text(lines({"step": s, ATTACK: s, f"val/{ATTACK}": s} for s in range(3)))
    content = evaluation()
    content["histograms"][0] |= {"title": ATTACK, "unit": ATTACK, "series": {ATTACK: [1, 2]}}
    (run / "evaluation.json").write_text(json.dumps(content))
    html, _ = build(run)
    assert "<script" not in html
    assert "<img" not in html


def test_figures_have_words_for_those_who_cannot_see_them(run):
    _, page = build(run)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert any("Margins (histogram). SFT: 3 values, mean 0; SFT + DPO: 3 values, mean 3.167" in v for v in labels)
    assert any(re.match(r"Reward accuracy \(lines\)\. .*training from .* to ", v) for v in labels)
    assert [value for name, value in page.attributes if name == "tabindex"]


def test_results_come_first(run, other, tmp_path):
    evaluated = pages.write_evaluation(tmp_path / "evaluated")
    html, _ = build([run, other, evaluated], tmp_path / "page.html")
    found = re.findall(r'<section id="(\w+)"', html)
    expected = ["evaluation", "samples", "distributions", "training", "speed", "during", "comparison", "alarms", "data"]
    assert found == [*expected, "what"]
    assert html.index('class="card"') < html.index('<section id="evaluation"')


def test_a_page_of_several_folders_says_what_is_on_it(run, tmp_path):
    evaluated = [pages.write_evaluation(tmp_path / name) for name in ("one", "two")]
    html, page = build([run, *evaluated], tmp_path / "page.html")
    words = words_of(page)
    assert "2 evaluations and 1 run" in words
    assert "Evaluations: A reward model (one), A reward model (two). Run: DPO." in words
    head, _, body = html.partition("</header>")
    assert "On pairs." not in head
    assert body.count("On pairs.") == 2, "in the section that it is about"


# -------------------------------------------------------------------- numbers beside the page


def beside_the_page(run):
    """The numbers and the texts that a report has left in files."""
    texts = [json.loads(line) for line in (run / "report_samples.jsonl").read_text().splitlines()]
    return json.loads((run / "report.json").read_text()), texts


@pytest.mark.parametrize("what", ["a run", "several", "many digits"])
def test_every_number_of_the_page_is_in_a_file_beside_it(run, other, what):
    if what == "many digits":
        run = pages.write_evaluation(run.with_name("evaluated"), pages.with_intervals())
    evaluated = pages.write_evaluation(run.with_name("others"))
    html, page = build([run, other, evaluated] if what == "several" else [run])
    assert len(re.findall(r"\d", " ".join(page.read))) > (30 if what == "many digits" else 200)
    assert complaints(html, *beside_the_page(run)) == []


@pytest.mark.parametrize("what", ["a run", "many digits"])
def test_no_digit_of_the_page_can_be_another(run, what):
    """Whatever digit is changed, outside of what models wrote: it is found. So is a pair of numbers that is swapped."""
    if what == "many digits":
        run = pages.write_evaluation(run.with_name("evaluated"), pages.with_intervals())
    html = without_figures(build([run])[0])
    files = beside_the_page(run)
    assert complaints(html, *files) == []
    words = [found.span() for found in re.finditer(r'<div class="(?:prompt )?words">.*?</div>', html, re.DOTALL)]
    free = [found.span(1) for found in re.finditer(r'class="(?:score|verdict)[^>]*>([^<]*)<', html)]
    changed = 0
    for text in re.finditer(r">([^<]+)<", html):
        inside = any(start <= text.start() < end for start, end in words)
        if OWN.search(text[1]) or (inside and text.span(1) not in free):
            continue
        for digit in re.finditer(r"\d", re.sub(r"&#?\w+;", lambda entity: "_" * len(entity[0]), text[1])):
            place = text.start(1) + digit.start()
            other = html[:place] + str((int(digit[0]) + 1) % 10) + html[place + 1 :]
            assert complaints(other, *files), f"{text[1]}: {digit}"
            changed += 1
    assert changed > 60
    cells = list(re.finditer(r'<td class="number">([^<]*\d[^<]*)(?: <small[^>]*>[^<]*</small>)?</td>', html))
    swapped = 0
    for one, two in pairwise(cells):
        if one[1] != two[1] and two.start() - one.end() < 60:
            other = html[: one.start(1)] + two[1] + html[one.end(1) : two.start(1)] + one[1] + html[two.end(1) :]
            assert complaints(other, *files), (one[1], two[1])
            swapped += 1
    assert swapped > 2


def test_figures_are_files_too(run):
    build(run)
    figures = json.loads((run / "report.json").read_text())["figures"]
    assert len(figures) >= 8
    for figure in figures:
        svg, png = (run / name for name in figure["files"])
        assert svg.read_text().startswith("<?xml")
        assert png.read_bytes().startswith(b"\x89PNG")
    loss = next(figure for figure in figures if figure["title"] == "Loss")
    assert loss["series"]["held out"] == [[step, math.exp(-step / 20)] for step in (9.0, 19.0, 29.0, 39.0)]


def test_a_new_report_leaves_no_figures_of_the_former_one(run):
    build(run)
    (run / "report_figures" / "mine.png").write_bytes(b"")
    (run / "metrics.jsonl").write_text(lines({"step": s, "loss": s} for s in range(3)))
    build(run)
    names = {path.name for path in (run / "report_figures").iterdir()}
    assert "mine.png" in names
    assert "loss.svg" in names
    assert "reward_margin.svg" not in names


def test_two_pages_of_the_same_files_are_the_same_but_for_the_clock(run):
    first, second = (re.sub(r"[\d-]+ [\d:]+ UTC", "", build(run)[0]) for _ in range(2))
    assert first == second


# -------------------------------------------------------------------- missing and damaged files


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_missing(run, name):
    (run / name).unlink()
    html, _ = build(run)
    assert (f"{name}: not there" in html) == (name not in ("evaluation.json", "alarms.jsonl", "config.yaml"))


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_alone(run, name):
    for other in FILES:
        if other != name:
            (run / other).unlink()
    build(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "7\n", '{"a": 1', "\x00\xff"])
def test_damaged_files_are_named_and_do_no_harm(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    html, _ = build(tmp_path)
    assert name in html or not text
    assert ("cannot be read: 1" in html) == ("unreadable line" in html or ": cannot be read" in html)


@pytest.mark.parametrize("wrong", pages.WRONG, ids=repr)
def test_parts_of_the_wrong_kind_do_no_harm(tmp_path, wrong):
    names = ("labels", "headline", "histograms", "completions", "tables", "figures", "samples", "about", "title")
    pages.write_evaluation(tmp_path, dict.fromkeys(names, wrong))
    for name, parts in {
        "run.json": ("sessions", "settings", "method", "policy"),
        "data_report.json": ("train", "validation"),
    }.items():
        (tmp_path / name).write_text(json.dumps(dict.fromkeys(parts, wrong)))
    for name in ("metrics.jsonl", "timing.jsonl", "alarms.jsonl", "completions.jsonl", "scores.jsonl"):
        rows = [
            {"step": wrong, "loss": wrong},
            {"step": 1, "loss": wrong, "name": wrong, "prompt": wrong, "row": wrong},
        ]
        rows.append({"step": 2, "tokens": wrong, "role": wrong, "reward": wrong, "completion": wrong, "words": wrong})
        (tmp_path / name).write_text(lines(rows))
    build(tmp_path)


def test_a_line_cut_by_a_kill_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "loss": 0.')
    html, _ = build(run)
    assert "1 unreadable line left out" in html


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_folder_without_a_run_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no run to report"):
        build_report(tmp_path / folder, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_no_file_of_a_run_is_replaced(run):
    with pytest.raises(ConfigError, match="would replace a file of the run"):
        build_report(run, run / "evaluation.html")
    assert json.loads((run / "evaluation.json").read_text()) == evaluation()


# -------------------------------------------------------------------- alarms


def test_alarms_are_explained(run):
    _, page = build(run)
    words = words_of(page)
    for text in (
        "Likelihood displacement", "steps 12, 31",
        "Over the last 50 steps <script>", "What it means. Preference losses",
        "What to do. Try a lower learning_rate.", "before training",
    ):  # fmt: skip
        assert text in words, text


def test_alarms_are_named_in_one_line_at_the_top(run):
    html, page = build(run)
    line = "Alarms: Likelihood displacement (2), mine"
    assert line in page.words
    assert html.index(line) < html.index('class="card"') < html.index("What it means.")
    (run / "alarms.jsonl").write_text("")
    assert 'class="strip"' not in build(run)[0]


def test_no_alarms_is_said(run):
    (run / "alarms.jsonl").write_text("")
    assert "No alarms were raised." in build(run)[0]


def test_without_the_file_the_metrics_tell(run):
    (run / "alarms.jsonl").unlink()
    assert "it kept no alarms.jsonl" in build(run)[0]
    rows = [row | {"alarms/displacement": float(row["step"] in (4, 5, 9))} for row in metrics(12)]
    (run / "metrics.jsonl").write_text(lines(rows))
    assert "steps 4, 9" in words_of(build(run)[1])


# -------------------------------------------------------------------- several runs


def test_several_runs_are_compared(run, other, tmp_path):
    html, page = build([run, other], tmp_path / "both.html")
    words = words_of(page)
    assert "2 runs compared" in words
    assert "metricDPO (run)DPO (earlier)" in "".join(page.read).replace("\n", "")
    assert "model.init_args.beta0.50.1" in words
    assert "DPO (earlier): no alarms were raised." in words
    assert words.count("Reward margin") == 1, "one figure for both runs"
    assert words.count("What this is.") == 1, "beside the numbers that it is about"
    (table,) = (t for t in json.loads((tmp_path / "both.json").read_text())["tables"] if t["id"] == "final_and_best")
    row = next(row for row in table["rows"] if row[0] == "val/loss")
    assert row == ["val/loss", *(2 * [math.exp(-39 / 20), math.exp(-39 / 20), 39])]
    assert [line[0] for line in table["rows"][1:3]] == ["val/loss", "val/rewards/accuracies"], "held-out data first"
    assert "learning_rate" not in [line[0] for line in table["rows"]]
    figure = next(f for f in json.loads((tmp_path / "both.json").read_text())["figures"] if f["title"] == "Loss")
    assert {*figure["colours"].values()} == {"DPO (run)", "DPO (earlier)"}
    assert html.count("<figcaption>Implicit rewards: chosen<") == 1


def test_a_run_and_an_evaluation_share_a_page(run, tmp_path):
    evaluated = pages.write_evaluation(tmp_path / "evaluated")
    _, page = build([run, evaluated], tmp_path / "page.html")
    words = words_of(page)
    for text in ("A reward model", "Replies to held-out prompts: DPO", "Samples: A reward model", "Training"):
        assert text in words, text
    assert "metrics.jsonl: not there" not in words, "an evaluation lacks nothing"


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [pages.write_run(tmp_path / name / "dpo") for name in ("one", "two")]
    words = words_of(build(folders, tmp_path / "page.html")[1])
    assert "DPO (one/dpo)" in words
    assert "DPO (two/dpo)" in words


def test_only_metrics_that_runs_have_in_common_are_compared(run, tmp_path):
    other = tmp_path / "sft"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"method": "SFT"}))
    (other / "metrics.jsonl").write_text(
        lines({"step": s, "loss": 3.0 - s, "nll_loss": 3.0 - s, "entropy": 1.5} for s in (1, 2, 1.5))
    )
    _, page = build([run, other], tmp_path / "page.html")
    tables = {table["id"]: table for table in json.loads((tmp_path / "page.json").read_text())["tables"]}
    assert [row[0] for row in tables["final_and_best"]["rows"]] == ["last step", "loss"]
    assert tables["final_and_best"]["rows"][1][4:] == [1.5, 1.0, 2]
    assert ["entropy", "SFT", 1.5, None, None] in tables["only_one"]["rows"]
    assert ["val/loss", "DPO"] in [row[:2] for row in tables["only_one"]["rows"]]
    words = words_of(page)
    assert "1.5 best 1, step 2" in words
    assert "Losses of different methods are different things." in words


def test_runs_on_the_same_data_share_its_report(run, other, tmp_path):
    report = json.loads((other / "data_report.json").read_text())
    _, page = build([run, other], tmp_path / "page.html")
    assert words_of(page).count("DPO (run): train; DPO (earlier): train") == 2, "rows and lengths"
    report["train"]["kept"] = 7
    (other / "data_report.json").write_text(json.dumps(report))
    assert "DPO (run): train; " not in words_of(build([run, other], tmp_path / "page.html")[1])


# -------------------------------------------------------------------- what a run has without an evaluation


def test_without_a_comparison_the_metrics_head_the_page(run):
    (run / "evaluation.json").unlink()
    html, page = build(run)
    assert "Reward accuracy" in page.words
    assert "held-out data, step 9 and step 39" in page.words
    assert "22.5 %" in html
    assert "97.5 %" in html


def test_scores_are_drawn_where_there_is_no_comparison(run):
    (run / "evaluation.json").unlink()
    sides = ({"role": "chosen", "logps": -4.0, "tokens": 5}, {"role": "rejected", "logps": -6.5, "tokens": 6})
    said = {"prompt": "Why?", "completion": ATTACK}
    (run / "scores.jsonl").write_text(lines({"row": n} | said | side for n in range(9) for side in sides))
    html, page = build(run)
    assert "chosen less rejected (mean 2.5)" in html
    assert "rejected (mean 6)" in html
    assert "Lengths of the scored responses" in html
    assert "The other 3 prompts" in html
    assert "rejected -6.5" in words_of(page).replace("rejected-6.5", "rejected -6.5")


def test_long_samples_stay_usable(tmp_path):
    texts = [f"{n} begins " + "word " * 4000 + f"{n} ends" for n in range(300)]
    rows = [{"prompt": f"prompt {n}", "texts": [text, text], "scores": [1, 2]} for n, text in enumerate(texts)]
    pages.write_evaluation(tmp_path, {"samples": {"columns": ["a", "b"], "rows": rows}})
    html, page = build(tmp_path)
    assert len(html) < 1_500_000
    words = words_of(page)
    assert "The other 54 prompts" in words
    assert "300 prompts in all" in words
    assert "59 begins" in words
    assert "60 begins" not in words
    file = [json.loads(line) for line in (tmp_path / "report_samples.jsonl").read_text().splitlines()]
    assert [row["texts"][1] for row in file] == texts


def test_a_hundred_thousand_steps_take_seconds(tmp_path):
    spike = 54_321
    rows = ({"step": s, "loss": 1.0 + (s == spike), "grad_norm": math.sin(s)} for s in range(1, 100_001))
    (tmp_path / "metrics.jsonl").write_text(lines(rows))
    start = time.monotonic()
    html, _ = build(tmp_path)
    assert time.monotonic() - start < 20
    assert len(html) < 400_000
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    loss = next(figure for figure in figures if figure["title"] == "Loss")
    assert [spike, 2.0] in loss["series"]["training, as logged"]


# -------------------------------------------------------------------- real runs and the command


def test_a_real_run(tiny_model_dir, tmp_path):
    """What a trainer leaves is what the page shows."""
    file = next(iter(write_files(tmp_path, 22).values()))
    settings = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False}
    trainer = lit_align.Trainer(default_root_dir=str(tmp_path / "run"), enable_model_summary=False, **settings)
    data = PreferenceDataModule(file, val_split=0.2, batch_size=4, cache_dir=str(tmp_path / "cache"))
    trainer.fit(lit_align.DPO(policy=tiny_model_dir, beta=0.3), data)
    main([str(tmp_path / "run")])
    page = pages.Checker((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    words = words_of(page)
    steps = trainer.global_step
    for text in ("DPO", "No alarms were raised.", f"0 to {steps}", "finished", "beta: 0.3", "Throughput", "rows kept"):
        assert text in words, text
    assert "no configuration" not in words
    sources = ("metrics.jsonl", "timing.jsonl")
    logged = [[json.loads(x) for x in (tmp_path / "run" / s).read_text().splitlines()] for s in sources]
    assert [row["step"] for row in logged[1]] == sorted({row["step"] for row in logged[0]})


def test_the_command_writes_into_the_run_folder(run, tmp_path, capsys):
    main(["--run", str(run), "--title", "From the command"])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "From the command" in (run / "report.html").read_text(encoding="utf-8")
    main([str(run), "--out", str(tmp_path / "new" / "page.html")])
    assert (tmp_path / "new" / "page.html").is_file()
    assert (tmp_path / "new" / "page.json").is_file()


def test_the_command_takes_several_runs(run, other, capsys):
    main([str(run), str(other)])
    assert capsys.readouterr().out.strip() == str(run.parent / "report.html")


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["a", "b", "--out", "c"], ["--run", '["a", "b"]', "--out", "c"]),
        (["--title=t", "a", "--run", "b"], ["--run", '["a", "b"]', "--title=t"]),
        (["--run=a", "b", "-h"], ["--run", '["a", "b"]', "-h"]),
        (["--out", "c"], ["--out", "c"]),
    ],
)
def test_words_by_themselves_are_runs(given, parsed):
    assert with_runs(given) == parsed


def test_a_page_is_written_without_torch(run):
    """Nobody waits for the libraries of training to read numbers."""
    code = f"from lit_align.tools.report import main; main([{str(run)!r}]); import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(run / "report.html"), "False"]
