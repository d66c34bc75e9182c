"""The figures of a round that the guards look at, from its answers and pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from lit_align.loops.diversity import distinct_n, repetition_rate
from lit_align.loops.guards import RoundStats
from lit_align.loops.lengths import audit_lengths, length_difference
from lit_align.loops.pairs import IDENTICAL, TIED, Answer, Chosen


def measure_round(
    round: int,
    step: int,
    answers: Sequence[Answer],
    pairs: Sequence[Chosen] | None = None,
    left_out: Mapping[str, int] | None = None,
    held_out: Sequence[float] = (),
    *,
    rows: int | None = None,
    scored: bool = True,
) -> RoundStats:
    """The figures of a round.

    Args:
        round: its number.
        step: optimiser steps of the run when the data were made.
        answers: of the model, all of them, before any is left out.
        pairs: that were made of them, with lengths in tokens; None for a loop without pairs.
        left_out: counts of a `Pairing` or an `AnswerFilter`.
        held_out: scores of a judge that the data are not made with.
        rows: that training is given; None: as many as there are pairs.
        scored: whether the answers have been judged. Then those without a score are failures of the judge.
    """
    left_out = left_out or {}
    scores = [answer.score for answer in answers if answer.score is not None and math.isfinite(answer.score)]
    audit = audit_lengths([length_difference(pair) for pair in pairs or ()])
    texts = [answer.text for answer in answers]
    unscored = 1 - len(scores) / len(answers) if scored and answers else 0.0
    return RoundStats(
        round,
        step,
        candidates=len(answers),
        empty=sum(not text.strip() for text in texts),
        unfinished=fmean(not answer.finished for answer in answers) if answers else 0.0,
        mean_tokens=fmean(answer.tokens for answer in answers) if answers else None,
        distinct_2=distinct_n(texts, 2),
        repetition=repetition_rate(texts),
        score=fmean(scores) if scores else None,
        score_sd=stdev(scores) if len(scores) > 1 else None,
        tied_or_unscored=max(unscored, _share(left_out.get(TIED, 0), audit.pairs)),
        held_out_score=fmean(held_out) if held_out else None,
        held_out_error=stdev(held_out) / math.sqrt(len(held_out)) if len(held_out) > 1 else None,
        pairs=rows if pairs is None or rows is not None else len(pairs),
        longer_wins=audit.longer_wins,
        identical=_share(left_out.get(IDENTICAL, 0), audit.pairs),
    )


def _share(dropped: int, kept: int) -> float:
    return dropped / (dropped + kept) if dropped else 0.0
