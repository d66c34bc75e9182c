"""Every number of a report's page against the files beside it: in its place, and rounded as that place rounds."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
OWN = re.compile(r"the other \d+ prompts|the other \d+ characters|\d+ prompts in all|all \d+ rows|every \d+th", re.I)
"""Words of the page itself: counts of what is folded, and of letters that are not shown."""
_WHOLE = ("score", "verdict", "new", "old")
"""Classes of elements that are read as one text."""


class Places(HTMLParser):
    """The texts of a page by where they stand; figures are left out.

    Args:
        html: the page.
        ids: of its tables.
    """

    def __init__(self, html, ids):
        super().__init__()
        self.ids, self.current = ids, ""
        self.tables, self.texts = [], []
        self.parts = {name: [] for name in _WHOLE}
        self.whole, self.depth = None, 0
        self.feed(without_figures(html))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.current = values["id"] if values.get("id") in self.ids else self.current
        if tag == "table":
            self.tables.append((self.current, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        if self.whole is not None:
            self.depth += tag not in ("br", "img")
            return
        name = (values.get("class") or "").split(" ")[0]
        if tag in ("td", "th") or name in _WHOLE:
            self.whole, self.depth = ("cell" if tag in ("td", "th") else name, []), 1

    def handle_endtag(self, tag):
        if self.whole is None:
            return
        self.depth -= 1
        if not self.depth:
            (name, parts), self.whole = self.whole, None
            text = " ".join("".join(parts).split())
            (self.tables[-1][1][-1] if name == "cell" else self.parts[name]).append(text)

    def handle_data(self, data):
        (self.texts if self.whole is None else self.whole[1]).append(data)


def without_figures(html):
    """A page without its figures and its style."""
    return re.sub(r"<(svg|style|title)\b.*?</\1>", "", html, flags=re.DOTALL)


def complaints(html, beside, samples):
    """What is wrong with the numbers of a page.

    Args:
        html: the page.
        beside: of its report.json.
        samples: records of its report_samples.jsonl.
    """
    tables = {table["id"]: table for table in beside["tables"]}
    page = Places(html, tables)
    found = [f"no table {name}" for name in tables if tables[name]["rows"] and name not in dict(page.tables)]
    for name, (_, *rows) in page.tables:
        table = tables[name]
        if len(rows) != len(table["rows"]):
            found.append(f"{name}: {len(rows)} rows")
        for cells, row in zip(rows, table["rows"], strict=False):
            found += [f"{name}: {text}" for text in _wrong_cells(cells, row, table["rows"])]
    found += _wrong_cards(page.parts["new"], page.parts["old"], beside["headline"])
    found += _wrong_scores(page.parts["score"], page.parts["verdict"], samples)
    known = "\n".join(_plain(text) for text in _strings([beside, samples]))
    for text in page.texts:
        words = _plain(OWN.sub("", text))
        if re.search(r"\d", words) and words not in known:
            found.append(text)
    return found


def _wrong_cells(cells, row, rows):
    """Texts of a row that are not its values, in their order; some values may have no cell."""
    place, wrong = 0, []
    for cell in cells:
        # An estimate has its interval in the same cell.
        for text in [cell] if cell in row or not NUMBER.search(cell) else _parts(cell):
            after = next((n for n in range(place, len(row)) if _reads(text, row[n], rows, n)), None)
            if after is None and text != "–":
                wrong.append(text)
            place = place if after is None else after + 1
    return wrong


def _parts(cell):
    return [f"{text} %" if cell.endswith("%") else text for text in NUMBER.findall(cell)]


def _reads(text, value, rows, column):
    """Whether a cell is what a table shows of a value."""
    if value is None or isinstance(value, (str, bool)):
        return text == (
            " ".join(value.split()) if isinstance(value, str) else {True: "yes", False: "no"}.get(value, "–")
        )
    if text.endswith("%"):
        return text == percent(value)
    if isinstance(value, int) or text == f"{value:.4g}":
        return text in (str(value), f"{value:.4g}")
    # Numbers of a column, and of the interval behind it, have the same digits: four of the greatest, at most three
    # behind the point.
    digits = len(text.partition(".")[2])
    beside = [row[n] for row in rows for n in range(max(0, column - 2), min(len(row), column + 3))]
    size = max(abs(one) for one in beside if isinstance(one, float))
    enough = digits == 3 or value.is_integer() or digits >= 3 - math.floor(math.log10(size))
    return enough and text == f"{value:.{digits}f}"


def percent(share):
    """A share in percent, as every place shows it."""
    return f"{100 * share:.1f} %".replace(".0 ", " ")


def headline(value, text):
    """A value as a card shows it."""
    if text.endswith("%"):
        return percent(value)
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _wrong_cards(new, old, lines):
    wrong, before = [], []
    for line in lines:
        for text, value in zip((line["before"], line["after"]), line["values"], strict=False):
            if value is not None and text and text != headline(value, text):
                wrong.append(f"{line['name']}: {text}")
        for text, value in zip(NUMBER.findall(line["between"]), line["interval"] or [], strict=False):
            if f"{text} %" != percent(value) and text != headline(value, text):
                wrong.append(f"{line['name']}: {text}")
        before += [f": {line['before']} {line['unit']}".rstrip()] if line["before"] else []
        before += [f"95 %: {line['between']} {line['unit']}".rstrip()] if line["between"] else []
    expected = [f"{line['after']} {line['unit']}".strip() for line in lines]
    wrong += [text for text in new if text not in expected] if new != expected else []
    pairs = zip(old, before, strict=False)
    return (
        wrong + [text for text, end in pairs if not text.endswith(end)] + (["cards"] if len(old) != len(before) else [])
    )


def _wrong_scores(scores, verdicts, samples):
    shown = [score for sample in samples for score in sample["scores"] if score is not None]
    expected = [str(score) if isinstance(score, int) else f"{score:.4g}" for score in shown]
    said = [sample["verdict"] for sample in samples if sample.get("verdict")]
    wrong = [f"scores {scores}"] if scores != expected else []
    for sample in samples:
        verdict = sample.get("verdict") or ""
        if "by" in verdict:
            apart = abs(sample["scores"][0] - sample["scores"][1])
            wrong += [] if verdict.split()[-1] == f"{apart:.3g}" else [verdict]
    return wrong + ([f"verdicts {verdicts}"] if verdicts != said else [])


def _strings(value):
    """All texts of a JSON value, and those that the page puts together."""
    if isinstance(value, dict):
        if {"run", "when"} <= value.keys():
            yield f"{value['run']}, {value['when']}"
        for name, part in value.items():
            yield name
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


def _plain(text):
    return " ".join(text.split()).casefold()
