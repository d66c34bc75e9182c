"""How the figures of the pages look: colours that follow the reader's light or dark, a canvas, and what it becomes."""

from __future__ import annotations

import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

COLOURS = ("#2563eb", "#d97706", "#0f9f83", "#c026d3", "#dc2626", "#0891b2", "#84a300", "#8b95a5")
GREY, GREEN = COLOURS[7], COLOURS[2]
INK = "#37414f"
_GIVEN = {"chosen": COLOURS[0], "rejected": COLOURS[1], "training": COLOURS[0]}
_OTHERS = tuple(COLOURS[place] for place in (2, 3, 5, 6, 4, 7, 0, 1))
"""In the order in which other names get them."""
_VARIABLES = {
    **{colour: f"--c{number}" for number, colour in enumerate(COLOURS)},
    INK: "--text",
    "#5b6675": "--soft",
    "#c5ccd6": "--axis",
    "#e8ecf1": "--grid",
    "#ffffff": "--paper",
}
"""Colours of figures, and the names that page.css has for them."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lit-align",
    "font.size": 9,
    "axes.edgecolor": "#c5ccd6",
    "axes.labelcolor": "#5b6675",
    "text.color": INK,
    "xtick.color": "#5b6675",
    "ytick.color": "#5b6675",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf1",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # Names come from the user's files, and may hold dollar signs.
    "text.parse_math": False,
}
WIDTH, SMALL = 4.6, 3.7
"""Inches; figures of which three stand side by side are smaller, so that their letters are not."""
_HEIGHT, _DPI = 2.7, 200

Draw = Callable[[Canvas, Axes], None]


class Figure(NamedTuple):
    """A drawing with a caption."""

    title: str
    svg: str


class Drawing(NamedTuple):
    """One figure in the forms that a report has it in."""

    svg: str
    """To stand inside HTML."""
    file: str
    """As an SVG file."""
    png: bytes


class Palette:
    """Colours by name; a name has the same one in all figures of a page.

    Names that differ in capitals alone share one, for a model is often named after the method that made it.

    Args:
        before: name of what training started from: grey.
        after: name of what came of it: green.
        runs: names that are told apart in most figures of the page.
    """

    def __init__(self, before: str = "", after: str = "", runs: Sequence[str] = ()) -> None:
        self._colours = dict(_GIVEN)
        if before and after and before != after:
            self._colours |= {before: GREY, after: GREEN}
        for name in runs:
            self.of([name])

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """Colours of the series of one figure."""
        names = list(names)
        for name in names:
            if name not in self._colours:
                taken = {self._colours[other] for other in names if other in self._colours}
                self._colours[name] = self._next(name, taken)
        return {name: self._colours[name] for name in names}

    def variable(self, name: str) -> str:
        """What page.css calls the colour of a name; empty for names that have none."""
        colour = self._colours.get(name)
        return f"var({_VARIABLES[colour]})" if colour else ""

    def _next(self, name: str, taken: set[str]) -> str:
        alike = (colour for other, colour in self._colours.items() if other.casefold() == name.casefold())
        used = Counter(self._colours.values())
        free = [colour for colour in (*alike, *sorted(_OTHERS, key=lambda colour: used[colour])) if colour not in taken]
        return free[0] if free else _OTHERS[0]


def drawing(draw: Draw, label: str, *, height: float = _HEIGHT) -> str:
    """A drawing in the style of the others, as SVG for a page.

    Args:
        draw: puts something on a canvas and its axes.
        label: what it shows, for those who cannot see it.
        height: in inches; the width is 4.6.
    """
    with mpl.rc_context(_STYLE):
        return inline(_svg(_drawn(draw, WIDTH, height)), label, label)


def in_all_forms(draw: Draw, label: str, name: str, *, width: float = WIDTH, height: float = _HEIGHT) -> Drawing:
    """The same as SVG for a page, as SVG file and as PNG with a white ground.

    Args:
        draw: puts something on a canvas and its axes.
        label: what it shows, for those who cannot see it.
        name: one that no other drawing of the page has.
        width: in inches.
        height: in inches.
    """
    with mpl.rc_context(_STYLE):
        canvas = _drawn(draw, width, height)
        svg, png = _svg(canvas), io.BytesIO()
        canvas.savefig(png, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return Drawing(inline(svg, label, name), svg, png.getvalue())


def _drawn(draw: Draw, width: float, height: float) -> Canvas:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    draw(canvas, canvas.subplots())
    # The layout takes half of the time, and is the same in every form.
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    return canvas


def _svg(canvas: Canvas) -> str:
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()


def inline(svg: str, label: str, name: str) -> str:
    """SVG to stand inside HTML: no prolog, no metadata, no ids but those that are referred to.

    Args:
        svg: a file's text.
        label: what it shows, for those who cannot see it.
        name: one that no other drawing of the page has.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # The style that every drawing begins with would hold for the whole page, which has it too.
    svg = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # The page decides on the size and the font.
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(
        r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", svg
    )
    svg = re.sub(r'style="[^"]*"', lambda style: re.sub("#[0-9a-f]{6}", _variable, style[0]), svg)
    # Parts that two drawings share have one id in matplotlib, but may have no more than one on a page.
    own = f"g{zlib.crc32(name.encode()):08x}"
    svg = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{own}_", svg)
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1).strip()


def _variable(colour: re.Match[str]) -> str:
    return f"var({_VARIABLES[colour[0]]})" if colour[0] in _VARIABLES else colour[0]
