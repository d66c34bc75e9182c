"""The report in a real browser: wide and on a phone, in light and dark, with the keyboard and on paper."""

from __future__ import annotations

import re

import pytest

from lit_align.evaluation.report import build_report
from tests.evaluation import browser, pages

WIDTHS = (1280, 390)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
GROUND = "getComputedStyle(document.body).backgroundColor"
WIDE = """[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest('.sheet, pre, details')).map(e => e.tagName + '.' + e.className)"""
TINY = """[...document.querySelectorAll('figure svg text')]
  .filter(e => e.getBoundingClientRect().height < 7).length"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program = browser.find()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)}")
    with browser.started(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with everything that a page can have."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [pages.write_run(folder / "run"), pages.write_run(folder / "earlier")]
    evaluated = pages.all_kinds()
    wide = {"id": "wide", "title": "A wide table", "note": "", "columns": [f"column {n}" for n in range(30)]}
    evaluated["tables"].append(wide | {"rows": [[f"row{'x' * 50}", *range(29)]]})
    evaluated["samples"]["rows"] += [{"prompt": "x" * 300, "texts": ["y" * 5000, "z"], "scores": [1, 2]}]
    runs.append(pages.write_evaluation(folder / "evaluated", evaluated))
    return build_report(runs, folder / "report.html")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_asked_for_complained_of_or_cut_off(chromium, report, tmp_path, width, dark):
    chromium.open(report, width, dark=dark)
    chromium.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert chromium.requests() == [report.as_uri()]
    assert chromium.complaints() == []
    assert chromium.run("innerWidth") == width
    assert chromium.run(OVERFLOW) == 0, "the page does not scroll sideways"
    assert chromium.run(WIDE) == []
    assert chromium.run(TINY) == 0, "letters in figures can be read"
    lightness = sum(map(int, re.findall(r"\d+", chromium.run(GROUND))[:3]))
    assert lightness < 150 if dark else lightness > 600


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)])
def test_no_figure_is_alone_in_half_a_row(chromium, report, width, columns):
    chromium.open(report, width)
    grid = "document.querySelector('#evaluation .grid')"
    tops = chromium.run(f"[...{grid}.children].map(e => Math.round(e.getBoundingClientRect().top))")
    assert max(map(tops.count, tops)) == columns
    rows = {top: tops.count(top) for top in tops}
    last = chromium.run(f"{grid}.lastElementChild.getBoundingClientRect().width / {grid}.clientWidth")
    assert rows[tops[-1]] == columns or last > 0.99


def test_the_first_column_stays_where_a_table_scrolls(chromium, report):
    chromium.open(report, 390)
    box = "[...document.querySelectorAll('.sheet:not(.wide)')].find(e => e.scrollWidth > e.clientWidth + 20)"
    moved = "(box => { box.scrollLeft = 20; return box.querySelector('tbody th').getBoundingClientRect().left"
    assert chromium.run(f"{moved} - box.getBoundingClientRect().left }})({box})") <= 1


def test_wide_tables_scroll_inside_their_box(chromium, report):
    chromium.open(report, 390)
    box = "[...document.querySelectorAll('.sheet[role=region]')].find(e => e.ariaLabel == 'A wide table')"
    assert chromium.run(f"{box}.scrollWidth > {box}.clientWidth")
    assert chromium.run(f"{box}.tabIndex") == 0, "the keyboard reaches it"


def test_the_keyboard_opens_what_is_folded(chromium, report):
    chromium.open(report, 1280)
    chromium.run("document.querySelector('details > summary').focus()")
    assert chromium.run("document.activeElement.tagName") == "SUMMARY"
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        chromium.ask("Input.dispatchKeyEvent", type=kind, **key)
    assert chromium.run("document.querySelector('details').open")


def test_on_paper(chromium, report, tmp_path):
    """In light colours whatever the screen has, without the contents, and no figure over two sheets."""
    chromium.open(report, 1280, dark=True)
    chromium.paper(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    chromium.ask("Emulation.setEmulatedMedia", media="print", features=[])
    assert chromium.run(GROUND) == "rgb(255, 255, 255)"
    assert chromium.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    heads = "[...new Set([...document.querySelectorAll('thead')].map(e => getComputedStyle(e).display))].join()"
    assert chromium.run(heads) == "table-header-group", "which is repeated on each sheet"
    breaks = "[...new Set([...document.querySelectorAll('figure')].map(e => getComputedStyle(e).breakInside))].join()"
    assert chromium.run(breaks) == "avoid"
