"""The words that tell two sets of texts apart: weighted log-odds with an informative Dirichlet prior.

B. Monroe, M. Colaresi, K. Quinn, "Fightin' Words: Lexical Feature Selection and Evaluation for Identifying the Content
of Political Conflict", Political Analysis 16 (2008), https://doi.org/10.1093/pan/mpn018, Eqs. 16, 20 and 22. With
counts y and a prior of a_w pseudo-counts for word w, a_0 in all,

    delta_w = ln[(y1_w + a_w) / (n1 + a_0 - y1_w - a_w)] - ln[(y2_w + a_w) / (n2 + a_0 - y2_w - a_w)]
    z_w = delta_w / sqrt(1 / (y1_w + a_w) + 1 / (y2_w + a_w))

The prior holds the words of both sets together in their proportions, so that a word that is rare everywhere tells
nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Telling(NamedTuple):
    """How much oftener a word stands in one set than in the other."""

    word: str
    z: float
    """Standard deviations of the log-odds ratio; positive: oftener in the first set."""
    first: float
    """Per 1,000 words of the first set."""
    second: float
    """Per 1,000 words of the second set."""


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word stands in texts, in lower case; digits and signs are no words."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.lower()))
    return counts


def telling_words(first: Iterable[str], second: Iterable[str], top: int = 50, prior: float = 500.0) -> list[Telling]:
    """The words that are most typical of either set.

    Args:
        first: texts.
        second: texts.
        top: how many words to name, half of them for each set where there are as many.
        prior: pseudo-words of the prior.

    Returns:
        Words by z, those of the first set first; none where a set has no words.
    """
    one, two = count_words(first), count_words(second)
    size_one, size_two = one.total(), two.total()
    if not size_one or not size_two:
        return []
    both = one + two
    words = []
    for word, count in both.items():
        a = prior * count / both.total()
        ours, theirs = one[word] + a, two[word] + a
        if len(both) == 1:
            z = 0.0
        else:
            odds = ours / (size_one + prior - ours), theirs / (size_two + prior - theirs)
            z = (math.log(odds[0]) - math.log(odds[1])) / math.sqrt(1 / ours + 1 / theirs)
        words.append(Telling(word, z, 1000 * one[word] / size_one, 1000 * two[word] / size_two))
    # Words of equal z stand in the order of the alphabet, so that a table does not depend on the order of texts.
    words.sort(key=lambda telling: (-telling.z, telling.word))
    ours_first = [telling for telling in words if telling.z > 0]
    theirs_first = [telling for telling in words if telling.z < 0]
    few = min(top // 2, len(theirs_first))
    kept = ours_first[: top - few]
    return kept + theirs_first[max(0, len(theirs_first) - (top - len(kept))) :]
