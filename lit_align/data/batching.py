"""Which examples go together: pure functions from sizes and an order to batches, equal in number on all ranks.

A plan is a list of batches; rank r takes the batches r, r + world, r + 2 * world, ... so that the batches that
ranks work on at the same time stand next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from lit_align.core.batch import Layout

Plan = list[list[int]]
"""Batches of indices into the data."""

Remainder = Literal["wrap", "drop", "join"]
"""What becomes of examples too few for one batch on each rank: repeat some, leave them out, or add them to others."""

_WINDOW_GROUPS = 32
"""Batches per rank among which lengths are sorted: enough to be even, few enough to stay random."""


class Size(NamedTuple):
    """What an example costs the model."""

    responses: int
    longest: int
    """Tokens of the longest response with its prompt: the width of its padded rows."""
    packed: int
    """Tokens with a prompt for each response."""
    shared: int
    """Tokens with the prompt standing once."""


class Budget(NamedTuple):
    """How much goes into one batch."""

    rows: int
    """Examples per batch; without meaning where there is a limit on tokens."""
    tokens: int | None = None
    layout: Layout = Layout.PADDED

    def cost(self, sizes: Sequence[Size]) -> int:
        """Tokens that a batch of examples takes in the layout, padding included."""
        if self.layout is Layout.PADDED:
            return sum(size.responses for size in sizes) * max((size.longest for size in sizes), default=0)
        return sum(size.shared if self.layout is Layout.SHARED else size.packed for size in sizes)


def plan_batches(
    order: Sequence[int],
    sizes: Sequence[Size],
    budget: Budget,
    *,
    world_size: int = 1,
    bucket: bool = True,
    remainder: Remainder = "wrap",
) -> Plan:
    """Cuts an order of examples into batches, a multiple of `world_size` of them.

    Args:
        order: the examples to take, each once, in a random or in the given order.
        sizes: of all examples, by index.
        budget: limit on rows or on tokens.
        world_size: ranks among which batches are dealt.
        bucket: put examples of similar lengths together, among neighbours in `order`.
        remainder: see `Remainder`; only where no cut gives every rank a batch.

    Returns:
        Batches, each example once but for the remainder.
    """
    if not order:
        return []
    if budget.tokens is not None:
        return _by_tokens(order, sizes, budget, world_size, remainder)
    if bucket:
        window = budget.rows * world_size * _WINDOW_GROUPS
        order = [
            index
            for start in range(0, len(order), window)
            for index in sorted(order[start : start + window], key=lambda i: sizes[i].longest)
        ]
    return _by_rows(order, budget.rows, world_size, remainder)


def _by_rows(order: Sequence[int], rows: int, world_size: int, remainder: Remainder) -> Plan:
    """Batches of `rows` examples; the last ones are smaller, so that each rank gets as many."""
    group = rows * world_size
    rest = len(order) % group
    whole = len(order) - rest
    if 0 < rest < world_size and remainder != "drop" and whole and rows > 1:
        # Too few for one each: the last group gives some of its own.
        whole -= group
        return _cut(order[:whole], rows) + _split(order[whole:], 2 * world_size)
    plan = _cut(order[:whole], rows)
    if rest >= world_size and remainder != "drop":
        return plan + _split(order[whole:], world_size)
    return _settle(plan, [[index] for index in order[whole:]], order, world_size, remainder)


def _by_tokens(
    order: Sequence[int], sizes: Sequence[Size], budget: Budget, world_size: int, remainder: Remainder
) -> Plan:
    """First fit, longest first, among the neighbours in `order`."""
    typical = max(1, sum(budget.cost([sizes[i]]) for i in order[:1000]) // min(len(order), 1000))
    assert budget.tokens is not None
    window = max(1, budget.tokens // typical) * world_size * _WINDOW_GROUPS
    plan: Plan = []
    for start in range(0, len(order), window):
        plan += _first_fit(order[start : start + window], sizes, budget)
    missing = -len(plan) % world_size
    if missing and remainder != "drop":
        grown = split_to(plan, len(plan) + missing)
        if grown is not None:
            return grown
    loose = len(plan) % world_size
    return _settle(plan[: len(plan) - loose], plan[len(plan) - loose :], order, world_size, remainder)


def _first_fit(order: Sequence[int], sizes: Sequence[Size], budget: Budget) -> Plan:
    """Puts each example, longest first, into the first batch that has room for it."""
    assert budget.tokens is not None
    alone = {index: budget.cost([sizes[index]]) for index in order}
    padded = budget.layout is Layout.PADDED
    bins: list[list[int]] = []
    room: list[int] = []
    widths: list[int] = []
    open_from = 0
    for index in sorted(order, key=lambda i: (-sizes[i].longest, -alone[i])):
        for number in range(open_from, len(bins)):
            # Longest first: the first example of a padded batch sets the width for all.
            cost = sizes[index].responses * widths[number] if padded else alone[index]
            if cost <= room[number]:
                bins[number].append(index)
                room[number] -= cost
                break
        else:
            bins.append([index])
            room.append(budget.tokens - alone[index])
            widths.append(sizes[index].longest)
        while open_from < len(bins) and room[open_from] <= 0:
            open_from += 1
    return bins


def split_to(plan: Plan, count: int) -> Plan | None:
    """Splits the batches with most examples until there are `count`; None where there are too few examples."""
    plan = [list(batch) for batch in plan]
    if sum(map(len, plan)) < count:
        return None
    while len(plan) < count:
        place = max(range(len(plan)), key=lambda i: len(plan[i]))
        batch = plan[place]
        half = len(batch) // 2
        plan[place : place + 1] = [batch[:half], batch[half:]]
    return plan


def _settle(plan: Plan, loose: Plan, order: Sequence[int], world_size: int, remainder: Remainder) -> Plan:
    """Deals with fewer batches than ranks."""
    if not loose or remainder == "drop":
        return plan
    if remainder == "join" and plan:
        return [batch + extra for batch, extra in zip(plan, loose + [[]] * len(plan), strict=False)]
    missing = world_size - len(loose)
    return plan + loose + [[order[i % len(order)]] for i in range(missing)]


def _cut(order: Sequence[int], rows: int) -> Plan:
    return [list(order[start : start + rows]) for start in range(0, len(order), rows)]


def _split(order: Sequence[int], parts: int) -> Plan:
    """Cuts into `parts` runs whose lengths differ by one at most."""
    bounds = [len(order) * part // parts for part in range(parts + 1)]
    return [list(order[a:b]) for a, b in pairwise(bounds)]
