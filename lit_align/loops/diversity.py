"""How much texts repeat themselves and each other: what falls, or rises, when a loop collapses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from statistics import fmean

# Scripts without spaces between words: kana, Chinese characters, Hangul. Each sign counts as a word.
_SIGN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORD = re.compile(rf"{_SIGN}|(?:(?!{_SIGN})\w)+")
_WORD_OR_MARK = re.compile(rf"{_WORD.pattern}|[^\w\s]")

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without marks between them."""
    return _WORD.findall(text.lower())


def distinct_n(texts: Iterable[str], n: int, most: int = 20_000) -> float | None:
    """Share of n-grams of words and marks that are different from each other, over all texts together.

    J. Li et al., 2016, https://arxiv.org/abs/1510.03055. The more text, the smaller the share: only values of equally
    many n-grams say which texts are more varied.

    Args:
        texts: from the first one on as many as `most` asks for.
        n: words of an n-gram.
        most: n-grams that are looked at; where texts have as many, values can be compared.

    Returns:
        Above 0, at most 1; None where no text has n words.
    """
    grams = list(islice(chain.from_iterable(_grams(text, n) for text in texts), most))
    return len(set(grams)) / len(grams) if grams else None


def repetition_rate(texts: Iterable[str], n: int = 4) -> float | None:
    """How much texts repeat themselves: the share of n-grams that stand earlier in the same text, a mean over texts.

    Args:
        texts: those with fewer than n words and marks do not count.
        n: words of an n-gram.

    Returns:
        From 0 to below 1; None where no text has n words.
    """
    rates = []
    for text in texts:
        grams = list(_grams(text, n))
        if grams:
            rates.append(1 - len(set(grams)) / len(grams))
    return fmean(rates) if rates else None


def _grams(text: str, n: int) -> Iterator[Gram]:
    units = _WORD_OR_MARK.findall(text.lower())
    return zip(*(units[start:] for start in range(n)), strict=False)
