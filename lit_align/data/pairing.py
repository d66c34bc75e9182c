"""Pairs of ranked responses: which of them are compared."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

from lit_align.data.assemble import same_response
from lit_align.data.canonical import (
    FEW_FOR_TRIPLE,
    FEW_RESPONSES,
    IDENTICAL,
    IDENTICAL_PAIR,
    REPEATED_RESPONSE,
    TIED,
    UNDECIDED,
    CanonicalRow,
    Dropped,
)
from lit_align.data.rejection_sampling import rejection_sample

Converted = list[CanonicalRow | Dropped]


def best_worst(row: CanonicalRow) -> Converted:
    """The best response against the worst, of those with equal scores the first; the margin is the gap."""
    scores = get_scores(row)
    worst = min(range(len(scores)), key=lambda index: scores[index])
    return [_paired(row, [(best_index(row), worst)])]


def triples(row: CanonicalRow) -> Converted:
    """The best response as the target, the second best against the worst (TriplePO)."""
    order = _by_score(row)
    if len(order) < 3:
        return [Dropped(row.row, FEW_FOR_TRIPLE, f"{len(order)}")]
    return [_paired(best_as_target(row), [(order[1], order[-1])])]


def all_pairs(row: CanonicalRow) -> Converted:
    """Every two responses, the better one chosen; the prompt and each response still stand once."""
    order = _by_score(row)
    return [_paired(row, combinations(order, 2))]


def adjacent_pairs(row: CanonicalRow) -> Converted:
    """Each response against the next worse one in the order of the scores."""
    order = _by_score(row)
    return [_paired(row, pairwise(order))]


def random_pairs(row: CanonicalRow, *, num_pairs: int = 0, seed: int = 0) -> Converted:
    """Different pairs of unequal responses, drawn at random (SLiC-HF's sample-rank with a reward model).

    Args:
        row: ranked responses.
        num_pairs: how many; 0: as many as there are responses. All pairs, where there are fewer.
        seed: of the draw, together with the row's id.
    """
    every = list(combinations(_by_score(row), 2))
    decided = [pair for pair in every if _states_preference(row, *pair)]
    count = min(num_pairs or len(row.completions), len(decided))
    return [_paired(row, _generator(row, seed).sample(decided, count) if decided else every)]


def tournament_pairs(row: CanonicalRow) -> Converted:
    """The matches of a tournament (SLiC-HF's sample-rank): neighbours meet, then winners meet winners.

    That makes one match less than there are responses, fewer pairs where some are tied: then the first goes on.
    """
    scores = get_scores(row)
    return [_paired(row, tournament(scores, range(len(scores))))]


def first_round(scores: Sequence[float], players: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours meet, the better one first; of equal ones the one that stands first. An odd one out has no match."""
    return [_better_first(scores, *players[start : start + 2]) for start in range(0, len(players) - 1, 2)]


def tournament(scores: Sequence[float], players: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours meet, then winners meet winners: one match less than there are players, the better one first."""
    matches: list[tuple[int, int]] = []
    playing = list(players)
    while len(playing) > 1:
        matched = first_round(scores, playing)
        # An odd one out goes on without a match.
        playing = [winner for winner, _ in matched] + playing[2 * len(matched) :]
        matches += matched
    return matches


def rejection_sampled(row: CanonicalRow, *, beta: float = 0.5, num_samples: int = 8, seed: int = 0) -> Converted:
    """Pairs of responses that statistical rejection sampling accepts, put together at random two by two (RSO).

    Args:
        row: candidates of the policy before alignment, with their rewards as scores.
        beta: temperature of the sampler, in units of the scores.
        num_samples: most candidates to accept: twice the number of pairs.
        seed: of the draws, together with the row's id.
    """
    generator = _generator(row, seed)
    scores = get_scores(row)
    accepted = rejection_sample(scores, beta, num_samples, iter(generator.random, None))
    generator.shuffle(accepted)
    return [_paired(row, first_round(scores, accepted))]


def listed(row: CanonicalRow) -> CanonicalRow | Dropped:
    """A list of different responses to learn from whole; of equal ones the first stays.

    Returns:
        The row, or why it states no preference.
    """
    kept: list[int] = []
    for index, answer in enumerate(row.completions):
        if not any(same_response(answer, row.completions[other]) for other in kept):
            kept.append(index)
    scores = [get_scores(row)[index] for index in kept]
    repeated = len(row.completions) - len(kept)
    if len(kept) < 2:
        return Dropped(row.row, FEW_RESPONSES, f"{len(kept)} of {len(row.completions)} differ")
    if len(set(scores)) < 2:
        return Dropped(row.row, UNDECIDED, f"scores {scores}")
    left_out = {**row.left_out, REPEATED_RESPONSE: repeated} if repeated else row.left_out
    return row._replace(completions=[row.completions[index] for index in kept], scores=scores, left_out=left_out)


def single_pairs(row: CanonicalRow) -> list[CanonicalRow]:
    """A row for each pair; what was left out is counted with the first."""

    def only(values: list[float] | None, number: int) -> list[float] | None:
        return None if values is None else [values[number]]

    return [
        row._replace(
            pairs=[pair],
            margins=only(row.margins, number),
            weights=only(row.weights, number),
            left_out={} if number else row.left_out,
        )
        for number, pair in enumerate(row.pairs)
    ]


def best_as_target(row: CanonicalRow) -> CanonicalRow:
    """The best response, of those with equal scores the first, as the text to stay close to (SLiC-HF's y_ref)."""
    return row._replace(target=row.completions[best_index(row)])


def best_index(row: CanonicalRow) -> int:
    """Where the best response of a ranked row stands, of those with equal scores the first."""
    scores = get_scores(row)
    return max(range(len(scores)), key=lambda index: scores[index])


def get_scores(row: CanonicalRow) -> list[float]:
    """The scores of a ranked row."""
    assert row.scores is not None, "only ranked rows have scores to convert by"
    return row.scores


def _by_score(row: CanonicalRow) -> list[int]:
    """Indices of the responses, best first; equal scores in the order of the row."""
    scores = get_scores(row)
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _paired(row: CanonicalRow, candidates: Iterable[tuple[int, int]]) -> CanonicalRow | Dropped:
    """Keep the candidate pairs that state a preference, and the responses that take part in one."""
    scores = get_scores(row)
    skipped: Counter[str] = Counter()
    pairs: list[tuple[int, int]] = []
    for better, worse in candidates:
        if scores[better] <= scores[worse]:
            skipped[TIED] += 1
        elif same_response(row.completions[better], row.completions[worse]):
            skipped[IDENTICAL_PAIR] += 1
        else:
            pairs.append((better, worse))
    if not pairs:
        return Dropped(row.row, UNDECIDED if skipped[TIED] else IDENTICAL, f"scores {scores}")
    used = sorted({index for pair in pairs for index in pair})
    place = {index: position for position, index in enumerate(used)}
    return row._replace(
        completions=[row.completions[index] for index in used],
        scores=[scores[index] for index in used],
        pairs=[(place[better], place[worse]) for better, worse in pairs],
        margins=[scores[better] - scores[worse] for better, worse in pairs],
        margin=scores[pairs[0][0]] - scores[pairs[0][1]] if len(pairs) == 1 else None,
        left_out=dict(Counter(row.left_out) + skipped),
    )


def _states_preference(row: CanonicalRow, better: int, worse: int) -> bool:
    scores = get_scores(row)
    return scores[better] > scores[worse] and not same_response(row.completions[better], row.completions[worse])


def _better_first(scores: Sequence[float], one: int, other: int) -> tuple[int, int]:
    """The two with the better one first; equals stay in order."""
    return (other, one) if scores[other] > scores[one] else (one, other)


def _generator(row: CanonicalRow, seed: int) -> random.Random:
    """Random numbers of a row: the same wherever and whenever it is read."""
    return random.Random(f"{seed}/{row.row if row.id is None else row.id}")
