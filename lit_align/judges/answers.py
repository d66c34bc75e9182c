"""Final answers: finding them in a response, and telling whether two of them are the same."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from lit_align.core.errors import ConfigError

Extraction = Literal["auto", "hash", "boxed", "last_number", "answer_line", "answer_tag", "all"]

_NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\$?\.\d+"
_HASH = re.compile(rf"####\s*({_NUMBER})")
_LAST = re.compile(_NUMBER)
_ANSWER_LINE = re.compile(r"(?i)answer\s*:\s*(\S.*)")
_ANSWER_TAG = ("<answer>", "</answer>")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def hash_answer(text: str) -> str | None:
    """The number behind the last `####`, without thousands separators, as in GSM8K."""
    found = _HASH.findall(text)
    return _plain(found[-1]) if found else None


def last_number(text: str) -> str | None:
    """The last number of a text, without thousands separators."""
    found = _LAST.findall(text)
    return _plain(found[-1]) if found else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds; None where its braces do not close."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return None


def answer_line(text: str) -> str | None:
    """What stands behind the last `Answer:`, to the end of its line."""
    found = _ANSWER_LINE.findall(text)
    return str(found[-1]).rstrip() if found else None


def answer_tag(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`."""
    opening, closing = _ANSWER_TAG
    # By hand, since a regular expression takes forever over a response that opens the tag again and again.
    start = text.rfind(opening, 0, max(0, text.rfind(closing)))
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.find(closing, start)].strip()


def marked_number(text: str) -> str | None:
    r"""The answer where it is marked, by `####`, `\boxed` or `<answer>`; else the last number."""
    for extract in (hash_answer, boxed, answer_tag):
        found = extract(text)
        if found is not None and as_number(found) is not None:
            return found
    return last_number(text)


EXTRACTORS: dict[Extraction, Callable[[str], str | None]] = {
    "auto": marked_number,
    "hash": hash_answer,
    "boxed": boxed,
    "last_number": last_number,
    "answer_line": answer_line,
    "answer_tag": answer_tag,
    "all": lambda text: text,
}
"""Ways to find an answer; each takes the last that there is, and gives None where there is none."""


def as_number(text: str) -> Fraction | None:
    r"""The number that a text is: decimals, `a/b`, `\frac{a}{b}`, percent, thousands separators, a dollar sign.

    Returns:
        The exact number, or None where the text is something else.
    """
    text = text.strip().strip("$").strip().rstrip(".").replace("\\%", "%").replace("\\$", "").replace("$", "")
    text = _FRACTION.sub(r"\1\2/\3", text).replace(" ", "")
    percent = text.endswith("%")
    text = text.rstrip("%")
    if "," in text and not re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        return None
    try:
        # Fraction reads "1/2" and "0.5", and would read "1e9", which no answer is written as.
        number = Fraction(text.replace(",", "")) if re.fullmatch(r"[-+]?[\d.,]+(/[-+]?[\d.]+)?", text) else None
    except (ValueError, ZeroDivisionError):
        return None
    return number / 100 if number is not None and percent else number


def same_number(first: Fraction, second: Fraction, tolerance: float = 0.0) -> bool:
    """Whether two numbers differ by no more than a share of the second, and of nothing if that is 0."""
    return abs(first - second) <= Fraction(tolerance) * abs(second)


def same_words(text: str) -> str:
    """A text without what does not matter to an answer in words: case, punctuation, articles, white space."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def canonical(answer: str) -> Fraction | str:
    """A form in which equal answers are equal: the number that it is, or its words."""
    number = as_number(answer)
    return same_words(answer) if number is None else number


def _plain(number: str) -> str:
    return number.replace(",", "").replace("$", "")


def read_pattern(pattern: str, groups: int = 0) -> re.Pattern[str]:
    """A regular expression with so many groups at least.

    Raises:
        ConfigError: it is not one.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"the regular expression cannot be read: {error}", got=f"pattern: {pattern!r}", fix="mend it"
        ) from error
    if expression.groups < groups:
        raise ConfigError(
            "the regular expression has no group", got=f"pattern: {pattern!r}", fix="put () around what counts"
        )
    return expression
