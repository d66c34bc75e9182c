"""From a judge's verdicts to labelled pairs, and what the verdicts say of the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from lit_align.judges.base import TIE
from lit_align.loops.live import answers, by_prompt
from lit_align.loops.pairs import TIED, TOO_FEW, Answer, AnswerFilter, Chosen
from lit_align.loops.store import Row

UNJUDGED = "pair of answers that the judge could not compare"


class Labelled(NamedTuple):
    """A pair with its label."""

    id: str
    """Of the prompt."""
    pair: Chosen
    probability: float
    """That the chosen answer is the better one, at least 0.5."""


def comparable(candidates: Sequence[Row], counts: Counter[str], *, keep_unfinished: bool) -> list[Row]:
    """Candidates that can be compared with another one to the same prompt; what is left out is counted."""
    usable, kept = AnswerFilter(keep_unfinished, scored=False), set[tuple[str, int]]()
    for name, group in by_prompt(answers(candidates)).items():
        found = usable.keep([row["answer"] for row in group])
        counts[TOO_FEW] += len(found) < 2
        kept.update((name, answer.sample) for answer in found)
    counts.update(usable.counts)
    # Without zeros, which would be listed as reasons.
    for reason in [reason for reason, count in counts.items() if not count]:
        del counts[reason]
    return [row for row in candidates if (row["id"], row["sample"]) in kept]


def labelled(compared: Sequence[Row], verdicts: Sequence[Row], *, ties: bool, counts: Counter[str]) -> list[Labelled]:
    """A pair for every verdict, the likelier better answer chosen.

    Args:
        compared: candidates.
        verdicts: of `LiveRound.verdicts`.
        ties: keep pairs of which neither answer is likelier better.
        counts: get what is left out.
    """
    written: Mapping[tuple[str, int], Answer] = {
        (row["id"], row["answer"].sample): row["answer"] for row in answers(compared)
    }
    found = []
    for verdict in verdicts:
        name, chance = verdict["id"], verdict["probability"]
        if chance is None or (chance == TIE and not ties):
            counts[UNJUDGED if chance is None else TIED] += 1
            continue
        first, second = (written[name, verdict[side]] for side in ("first", "second"))
        pair = Chosen(first, second) if chance >= TIE else Chosen(second, first)
        found.append(Labelled(name, pair, max(chance, 1 - chance)))
    return found


def judge_figures(verdicts: Sequence[Row]) -> dict[str, float]:
    """How sure a judge is, and, where it was asked in both orders, what the order does to it.

    Returns:
        `label_confidence`, mean distance of the probability from 0.5; `same_place_wins`, share of pairs of which the
        same place won in both orders, which says nothing of the answers; `first_place`, mean probability of the
        answer that is shown first, 0.5 without bias.
    """
    known = [row for row in verdicts if row["probability"] is not None]
    if not known:
        return {}
    figures = {"label_confidence": fmean(abs(row["probability"] - TIE) for row in known)}
    # Both are chances of the first answer.
    both = [row["orders"] for row in known if row["orders"] is not None]
    if both:
        figures["same_place_wins"] = fmean((one - TIE) * (other - TIE) < 0 for one, other in both)
        figures["first_place"] = fmean((one + 1 - other) / 2 for one, other in both)
    return figures
